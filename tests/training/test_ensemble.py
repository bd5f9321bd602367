"""Deep ensembles: what is trained, what is stored, and whether their spread says where an image is wrong."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_ray.bundle import WEIGHTS, load_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.errors import BundleError, ConfigurationError, InputError
from ptycho_ray.reconstruction.ensemble import combine, on_one_canvas
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.training.ensemble import member_configs
from ptycho_ray.workflow import reassemble_cdi_image, save_inference_bundle, train_cdi_model


@pytest.fixture(scope="module")
def config():
    return TrainingConfig(
        model=ModelConfig(N=32, n_filters_scale=1), nepochs=2, batch_size=8, n_groups=40, ensemble_members=3
    )


@pytest.fixture(scope="module")
def trained(small_scan, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return train_cdi_model(small_scan, None, config, checkpoint_dir=folder), folder


def stitched(image, weight=None, origin=(0.0, 0.0)):
    weight = np.ones(image.shape) if weight is None else weight
    return StitchedObject(image.astype(np.complex64), weight.astype(np.float32), origin)


def test_members_have_seeds_of_their_own_and_the_first_is_the_run_without_an_ensemble(config):
    seeds = [member.seed for member in member_configs(replace(config, seed=7))]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    assert seeds == [member.seed for member in member_configs(replace(config, seed=7))]
    assert seeds[1:] != [member.seed for member in member_configs(replace(config, seed=8))][1:]
    assert {member.ensemble_members for member in member_configs(config)} == {1}


def test_members_differ_and_the_first_is_the_single_network(trained, small_scan, config):
    models = trained[0]["ensemble"]
    weights = [torch.cat([p.detach().flatten() for p in model.network.parameters()]) for model in models]
    assert len(models) == 3
    assert float((weights[0] - weights[1]).abs().max()) > 0.01
    alone = train_cdi_model(small_scan, None, replace(config, ensemble_members=1))["model_instance"]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), models[0].parameters(), strict=True))


def test_an_interrupted_ensemble_goes_on_and_does_not_train_again_what_is_done(trained, small_scan, config, tmp_path):
    results, folder = trained
    told = []

    class Follower:
        def on_member(self, number, members):
            told.append((number, members))

        def on_step(self, progress, figures, steps_in_epoch):
            told.append("step")

        def on_epoch(self, progress, figures, model):
            pass

    for number in (1, 2):  # the third was never begun
        (tmp_path / f"member-{number}").mkdir()
        for file in (folder / f"member-{number}").iterdir():
            (tmp_path / f"member-{number}" / file.name).write_bytes(file.read_bytes())
    again = train_cdi_model(
        small_scan, None, config, checkpoint_dir=tmp_path, resume_from=tmp_path, callbacks=[Follower()]
    )
    assert told[:3] == [(0, 3), (1, 3), (2, 3)]
    assert set(told[3:]) == {"step"}
    for before, after in zip(results["ensemble"], again["ensemble"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_the_bundle_holds_all_members(trained, small_scan, config, tmp_path):
    results, _ = trained
    path = save_inference_bundle(tmp_path, results, config, {})
    bundle = load_bundle(path)
    assert len(bundle.models) == 3
    before = reassemble_cdi_image(small_scan, config, model=results["ensemble"])[2]["stitched"]
    after = reassemble_cdi_image(small_scan, config, model=bundle.models)[2]["stitched"]
    for name in ("image", "amplitude_std", "phase_std"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    after.save(tmp_path / "image.npz")
    with np.load(tmp_path / "image.npz", allow_pickle=False) as arrays:
        assert arrays["phase_std"].shape == arrays["object"].shape
        assert float(np.median(arrays["phase_std"][after.covered()])) > 0


def test_a_damaged_member_is_named(trained, config, tmp_path):
    path = save_inference_bundle(tmp_path, trained[0], config, {})
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    damaged = bytearray(contents[f"members/2/{WEIGHTS}"])
    damaged[-5] ^= 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (contents | {f"members/2/{WEIGHTS}": bytes(damaged)}).items():
            archive.writestr(name, content)
    with pytest.raises(BundleError, match=r"members/2/weights.safetensors.*SHA-256"):
        load_bundle(path)


def test_free_phases_and_amplitudes_are_no_uncertainty(rng):
    image = rng.uniform(0.5, 1, (40, 50)) * np.exp(1j * rng.uniform(-3, 3, (40, 50)))
    found = combine([stitched(factor * image) for factor in (1.0, 1.3 * np.exp(2j), 0.8 * np.exp(-1j))])
    assert float(found.amplitude_std.max()) < 1e-5
    assert float(found.phase_std.max()) < 1e-5
    turn = np.vdot(image, found.image)
    np.testing.assert_allclose(
        found.image * abs(turn) / turn, image * abs(turn) / np.vdot(image, image).real, atol=1e-5
    )


def test_the_deviation_is_that_of_the_members(rng):
    truth = np.full((60, 60), 0.8 + 0j)
    images = [
        stitched((0.8 + rng.normal(0, 0.02, truth.shape)) * np.exp(1j * (3.1 + rng.normal(0, 0.05, truth.shape))))
        for _ in range(20)
    ]
    found = combine(images)
    assert float(found.amplitude_std.mean()) == pytest.approx(0.02, rel=0.05)
    assert float(found.phase_std.mean()) == pytest.approx(0.05, rel=0.05)
    assert float(np.abs(found.image).mean()) == pytest.approx(0.8, rel=0.01)


def test_images_of_other_places_meet_on_one_canvas(rng):
    image = rng.uniform(0.5, 1, (20, 20)).astype(complex)
    placed = on_one_canvas([stitched(image), stitched(image[2:, 3:], origin=(2.0, 3.0))])
    assert [each.image.shape for each in placed] == [(20, 20), (20, 20)]
    assert {each.origin_px for each in placed} == {(0.0, 0.0)}
    np.testing.assert_array_equal(placed[1].image[2:, 3:], placed[0].image[2:, 3:])
    with pytest.raises(InputError, match="the same shape"):
        combine([stitched(image), stitched(image[2:])])


def test_members_are_uncertain_where_the_light_is_weak(trained, small_scan, config):
    image = reassemble_cdi_image(small_scan, config, model=trained[0]["ensemble"])[2]["stitched"]
    covered = image.covered(0.0)
    level = image.weight[covered]
    weak, strong = level < np.percentile(level, 20), level > np.percentile(level, 80)
    relative = (image.amplitude_std / np.abs(image.image).clip(1e-3))[covered]
    assert np.median(relative[weak]) > np.median(relative[strong])


def test_an_ensemble_has_no_crop_stitch(trained, small_scan, config):
    with pytest.raises(ConfigurationError, match="crop"):
        reassemble_cdi_image(small_scan, config, model=trained[0]["ensemble"], stitch="crop")


def test_manifest_of_a_single_model_has_no_members(trained, config, tmp_path):
    alone = {name: value for name, value in trained[0].items() if name != "ensemble"}
    path = save_inference_bundle(tmp_path, alone, config, {})
    assert json.loads(zipfile.ZipFile(path).read("manifest.json"))["ensemble"] == []
    assert len(load_bundle(path).models) == 1


@pytest.mark.slow
def test_the_commands(small_scan, tmp_path, capsys):
    small_scan.to_file(tmp_path / "scan.npz")
    model, image = tmp_path / "model", tmp_path / "image"
    words = ["--n-filters-scale", "1", "--nepochs", "1", "--batch-size", "8", "--output-dir", str(model)]
    assert main(["train", str(tmp_path / "scan.npz"), "--ensemble", "2", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["uncertainty"]["members"] == 2
    assert [line for line in err.splitlines() if line.startswith("member")] == ["member 1/2", "member 2/2"]
    assert (model / "uncertainty.png").is_file()
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["members"] == 2

    words = ["--model-path", str(model), "--output-dir", str(image), "--json"]
    assert main(["reconstruct", str(tmp_path / "scan.npz"), *words]) == 0
    told = json.loads(capsys.readouterr().out)["uncertainty"]
    assert 0 < told["phase_std_rad_median"] < told["phase_std_rad_95_percent"]
    with np.load(image / "reconstruction.npz", allow_pickle=False) as arrays:
        assert {"amplitude_std", "phase_std"} <= set(arrays.files)
    assert "Uncertainty" in (image / "report.html").read_text(encoding="utf-8")

    assert main(["evaluate", str(image), str(tmp_path / "scan.npz"), "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["calibration"]["phase"]
    assert len(curve["observed"]) == len(curve["z"]) == 19
    assert 0 <= curve["expected_calibration_error"] <= 0.5
    assert (image / "evaluation_calibration.png").is_file()


@pytest.mark.slow
def test_members_side_by_side_are_those_of_one_process(one_ray, trained, small_scan, config, tmp_path):
    from ptycho_ray.cluster.train import train_on_cluster, unfinished

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        there = replace(config, output_dir=tmp_path)
        execution = ExecutionConfig(devices=2, accelerator="cpu")
        found = train_on_cluster(small_scan, small_scan, there, execution=execution, keep_patches=False)
        assert not unfinished(there, execution)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "checkpoints" / "member-3" / "last.safetensors").is_file()
    assert len(found["test_container"]) == len(small_scan)
    for alone, member in zip(trained[0]["ensemble"], found["ensemble"], strict=True):
        for a, b in zip(alone.parameters(), member.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
