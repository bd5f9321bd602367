"""The model file: a faithful round trip, and a clear refusal of everything else."""

from __future__ import annotations

import errno
import json
import zipfile

import numpy as np
import pytest
import torch

from ptycho_ray import bundle as bundle_module
from ptycho_ray.bundle import FILE_NAME, MANIFEST, WEIGHTS, load_bundle, read_manifest
from ptycho_ray.errors import BundleError, MissingFileError
from ptycho_ray.workflow import load_inference_bundle, reassemble_cdi_image, save_inference_bundle, train_cdi_model


@pytest.fixture(scope="module")
def trained(small_scan, other_scan):
    from ptycho_ray.config import ModelConfig, TrainingConfig

    config = TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1, gridsize=2), nepochs=1, batch_size=8)
    return train_cdi_model(small_scan, other_scan, config), config


@pytest.fixture
def saved(trained, tmp_path):
    results, config = trained
    return save_inference_bundle(tmp_path, results, config, {"seed": 0, "data_file": tmp_path / "scan.npz"})


def rewrite(path, **changes) -> None:
    """Replace members of an archive; None removes one."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in changes.items():
        members[name] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def change_manifest(path, **entries) -> None:
    manifest = json.loads(zipfile.ZipFile(path).read(MANIFEST))
    rewrite(path, **{MANIFEST: json.dumps({**manifest, **entries})})


def test_the_reloaded_model_predicts_the_same(trained, saved, other_scan):
    results, config = trained
    loaded = load_bundle(saved)
    assert saved.name == FILE_NAME
    assert loaded.config == config
    assert loaded.model.normalisation == results["model_instance"].normalisation
    assert loaded.history == results["history"]
    before = reassemble_cdi_image(other_scan, config, model=results["model_instance"])
    after = reassemble_cdi_image(other_scan, config, model=loaded.model)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


@pytest.mark.parametrize("name", ["autoencoder", "diffraction_to_obj"])
def test_both_names_of_the_reference_resolve(saved, name):
    assert load_bundle(saved, name).config.model.N == 32


def test_an_unknown_model_name_is_a_key_error(saved):
    with pytest.raises(KeyError, match="teacher.*autoencoder"):
        load_bundle(saved, "teacher")


def test_inference_as_a_ptychopinn_script_does_it(trained, saved):
    results, _ = trained
    model, params = load_inference_bundle(saved.parent)
    container = results["test_container"]
    assert params["N"] == 32
    assert params["gridsize"] == 2
    assert params["intensity_scale"] == pytest.approx(np.sqrt(1e9) / 16)
    assert params["probe"].shape == (1, 32, 32)
    objects = model.predict([container.X * params["intensity_scale"], container.local_offsets])
    assert objects.shape == (len(container), 32, 32, 1)
    expected = results["reconstructed_obj"]
    assert np.abs(objects - expected).max() <= 1e-4 * np.abs(expected).max()
    assert model.config.N == 32  # attributes of the model itself


def test_the_manifest_can_be_read_by_a_person(saved):
    manifest = read_manifest(saved)
    assert manifest["schema_version"] == 1
    assert manifest["backend"] == "pytorch"
    assert set(manifest["models"]) == {"autoencoder", "diffraction_to_obj"}
    assert manifest["provenance"]["data_file"].endswith("scan.npz")
    assert all(len(member["sha256"]) == 64 for member in manifest["members"].values())


def test_missing(tmp_path):
    with pytest.raises(MissingFileError, match=FILE_NAME):
        load_bundle(tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        load_inference_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [0, 10, 1000, -200])
def test_truncated(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(BundleError, match=FILE_NAME):
        load_bundle(saved)


def test_one_flipped_bit_in_the_weights(saved):
    content = bytearray(zipfile.ZipFile(saved).read(WEIGHTS))
    content[-5] ^= 1
    rewrite(saved, **{WEIGHTS: bytes(content)})
    with pytest.raises(BundleError, match=f"{WEIGHTS}.*SHA-256"):
        load_bundle(saved)


def test_a_member_of_another_size(saved):
    rewrite(saved, **{WEIGHTS: b"short"})
    with pytest.raises(BundleError, match=f"{WEIGHTS}.*5 bytes"):
        load_bundle(saved)


def test_a_missing_member(saved):
    rewrite(saved, **{WEIGHTS: None})
    with pytest.raises(BundleError, match=f"{WEIGHTS}.*no such member"):
        load_bundle(saved)


@pytest.mark.parametrize("version", [2, 99, "1", None])
def test_a_newer_or_odd_schema(saved, version):
    change_manifest(saved, schema_version=version)
    with pytest.raises(BundleError, match="schema_version"):
        load_bundle(saved)


def test_another_backend(saved):
    change_manifest(saved, backend="tensorflow")
    with pytest.raises(BundleError, match="backend.*tensorflow.*pytorch"):
        load_bundle(saved)


def test_settings_that_do_not_fit_the_weights(saved):
    manifest = read_manifest(saved)
    settings = {**manifest["config"], "model": {**manifest["config"]["model"], "n_filters_scale": 2}}
    change_manifest(saved, config=settings)
    with pytest.raises(BundleError, match="content"):
        load_bundle(saved)


@pytest.mark.parametrize("manifest", [b"[]", b"{", b'{"schema_version": 1}', b"\xff\xfe"])
def test_a_manifest_that_is_none(saved, manifest):
    rewrite(saved, **{MANIFEST: manifest})
    with pytest.raises(BundleError, match=MANIFEST):
        load_bundle(saved)


def test_a_pickled_bundle_of_the_reference_is_refused(tmp_path):
    path = tmp_path / FILE_NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.dill", b"\x80\x04.")
        archive.writestr("autoencoder/model.keras", b"")
    with pytest.raises(BundleError, match="pickled"):
        load_bundle(path)


def test_a_full_disk_leaves_the_old_bundle(trained, saved, monkeypatch):
    before = saved.read_bytes()

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module.zipfile.ZipFile, "writestr", no_space)
    results, config = trained
    with pytest.raises(OSError, match="no room on the disk"):
        save_inference_bundle(saved.parent, results, config, {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [FILE_NAME]


def test_weights_are_the_trained_ones(trained, saved):
    state = trained[0]["model_instance"].state_dict()
    loaded = load_bundle(saved).model.state_dict()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
