"""Shared forward passes, models on disk, uploads and results: all that needs no running service."""

from __future__ import annotations

import copy
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import PATIENCE_S

from ptycho_ray.data import RawData
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.service.engine import LoadedModel, Options, SharedForward, read_scan, reconstruct
from ptycho_ray.service.job_results import FORMATS, Solution, result_file, write_result
from ptycho_ray.service.live_image import LiveImage, ScanPhysics, predict
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.spool import Spool, StreamSettings
from ptycho_ray.service.start import check_before_start, named_models
from ptycho_ray.service.uploads import confined
from ptycho_ray.service.work import check_links
from ptycho_ray.workflow import load_data, reassemble_cdi_image


def settings(folder: Path, **changes: Any) -> ServiceSettings:
    return ServiceSettings(data_dir=folder / "data", **changes)


@pytest.fixture
def loaded(model_file: Path, tmp_path: Path) -> LoadedModel:
    return LoadedModel.load(model_file, settings(tmp_path))


def in_threads(jobs: list[Any]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)


def test_passes_are_shared_and_everybody_gets_his_own_rows() -> None:
    def compute(photons: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return 2 * photons

    forward = SharedForward(compute, most_rows=16)
    answers: dict[int, torch.Tensor] = {}
    in_threads([lambda k=k: answers.update({k: forward(torch.full((3, 1), float(k)))}) for k in range(20)])
    for k, answer in answers.items():
        assert answer.tolist() == [[2.0 * k]] * 3
    assert forward.calls == 20
    assert forward.passes < 10


def test_a_failed_pass_fails_its_callers_and_no_others() -> None:
    def compute(photons: torch.Tensor) -> torch.Tensor:
        if (photons < 0).any():
            raise RuntimeError("no")
        return photons

    forward = SharedForward(compute, most_rows=1)
    with pytest.raises(RuntimeError, match="no"):
        forward(torch.full((1, 1), -1.0))
    assert forward(torch.ones(1, 1)).item() == 1.0


def test_many_reconstructions_at_once_are_those_of_the_core(
    loaded: LoadedModel, small_scan: Any, other_scan: Any
) -> None:
    scans, images = [small_scan, other_scan] * 3, {}
    in_threads(
        [
            lambda k=k, scan=scan: images.update({k: reconstruct(scan, loaded, Options())})
            for k, scan in enumerate(scans)
        ]
    )
    for k, scan in enumerate(scans):
        model, config = loaded.bundle.model, loaded.bundle.config
        _, _, expected = reassemble_cdi_image(scan, config, model=model, keep_patches=False)
        np.testing.assert_allclose(images[k].image, expected["stitched"].image, atol=2e-5)


def test_the_crop_stitch_is_that_of_the_core_and_lies_where_it_should(loaded: LoadedModel, small_scan: Any) -> None:
    stitched = reconstruct(small_scan, loaded, Options(stitch="crop", crop=12))
    _, _, expected = reassemble_cdi_image(
        small_scan, loaded.bundle.config, M=12, model=loaded.bundle.model, stitch="crop"
    )
    np.testing.assert_allclose(stitched.image, expected["stitched_obj"][..., 0], atol=2e-5)
    rows = np.flatnonzero((stitched.weight > 0).any(axis=1)) + stitched.origin_px[0]
    positions = small_scan.positions_px[:, 0]
    assert rows[0] == pytest.approx(positions.min() - 6, abs=1.5)
    assert rows[-1] == pytest.approx(positions.max() + 6, abs=1.5)
    with pytest.raises(InputError, match="crop"):
        reconstruct(small_scan, loaded, Options(stitch="crop", crop=64))


@pytest.mark.parametrize(
    ("limit", "field"),
    [({"max_patterns": 10}, "patterns"), ({"max_N": 16}, "N"), ({"max_canvas_pixels": 100}, "positions")],
)
def test_scans_beyond_a_limit_are_refused(scan_file: Path, tmp_path: Path, limit: dict[str, int], field: str) -> None:
    with pytest.raises(Problem) as refused:
        read_scan(scan_file, settings(tmp_path, **limit))
    assert (refused.value.status, refused.value.more["field"]) == (422, field)


def test_a_scan_that_inflates_too_much_is_refused(scan_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_bytes"):
        read_scan(scan_file, settings(tmp_path, max_inflated_bytes=10_000))


def test_models_by_name_and_version(model_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version in ("2", "10", "9"):
        (root / "tiny" / version).mkdir(parents=True)
        (root / "tiny" / version / "wts.h5.zip").write_bytes(model_file.read_bytes())
    store = ModelStore(settings(tmp_path, model_root=root, models={"given": model_file}))
    assert [(model.name, model.version) for model in store.all()] == [
        ("given", "1"),
        ("tiny", "10"),
        ("tiny", "9"),
        ("tiny", "2"),
    ]
    assert store.choose("tiny").version == "10"
    assert store.choose("tiny@9").version == "9"
    assert store.by_key(store.choose("tiny@9").key).version == "9"
    with pytest.raises(Problem, match="Name a model"):
        store.choose(None)
    for missing in ("other", "tiny@3", "../tiny", "tiny@../../x"):
        with pytest.raises(Problem, match="no model"):
            store.choose(missing)


def test_a_corrupt_version_leaves_the_old_one(model_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version, content in (("1", model_file.read_bytes()), ("2", b"PK damaged")):
        (root / "tiny" / version).mkdir(parents=True)
        (root / "tiny" / version / "wts.h5.zip").write_bytes(content)
    store = ModelStore(settings(tmp_path, model_root=root))
    assert store.choose("tiny").version == "1"
    with pytest.raises(Problem) as refused:
        store.choose("tiny@2")
    assert refused.value.status == 503
    (root / "tiny" / "2" / "wts.h5.zip").write_bytes(model_file.read_bytes())
    assert store.choose("tiny").version == "2"


def test_paths_are_confined(tmp_path: Path) -> None:
    root, outside = tmp_path / "scans", tmp_path / "other"
    root.mkdir()
    outside.mkdir()
    (root / "scan.npz").touch()
    (outside / "secret.npz").touch()
    (root / "link.npz").symlink_to(outside / "secret.npz")
    (root / "loop").symlink_to(root / "loop")
    allowed = settings(tmp_path, allowed_roots=(root,))
    assert confined(str(root / "scan.npz"), allowed) == (root / "scan.npz").resolve()
    for path in (
        str(outside / "secret.npz"),
        f"{root}/../other/secret.npz",
        str(root / "link.npz"),
        "scan.npz",
        f"{root}/scan.npz\0.png",
        f"{root}x/scan.npz",
        "/nowhere",
        str(root / "loop"),
    ):
        with pytest.raises(Problem) as refused:
            confined(path, allowed)
        assert refused.value.status == 403, path
    with pytest.raises(Problem) as missing:
        confined(str(root / "none.npz"), allowed)
    assert missing.value.status == 404


def test_hdf5_files_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["diff3d"] = np.ones((4, 8, 8), np.float32)
    linked, virtual, plain = (tmp_path / "up" / name for name in ("linked.h5", "virtual.h5", "plain.h5"))
    plain.parent.mkdir()
    with h5py.File(linked, "w") as file:
        file.create_group("a/b")["diff3d"] = h5py.ExternalLink(str(secret), "diff3d")
    layout = h5py.VirtualLayout(shape=(4, 8, 8), dtype=np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "diff3d", shape=(4, 8, 8))
    with h5py.File(virtual, "w") as file:
        file.create_virtual_dataset("diff3d", layout)
    behind = tmp_path / "up" / "behind.h5"  # the HDF5 part need not begin at the first byte
    with h5py.File(behind, "w", userblock_size=512) as file:
        file["diff3d"] = h5py.ExternalLink(str(secret), "diff3d")
    with h5py.File(plain, "w") as file:
        file["diff3d"] = np.ones((4, 8, 8), np.float32)
        file["soft"] = h5py.SoftLink("/diff3d")
    check_links(plain, [plain.parent])
    for path in (linked, virtual, behind):
        with pytest.raises(InputError, match="another file"):
            check_links(path, [path.parent])
        check_links(path, [tmp_path])


def test_results_in_every_format(loaded: LoadedModel, small_scan: Any, tmp_path: Path) -> None:
    small_scan = copy.copy(small_scan)
    small_scan.pixel_size_m = 1e-8  # CXI has lengths in metres
    stitched = reconstruct(small_scan, loaded, Options())
    write_result(tmp_path / "result.npz", Solution(stitched, small_scan), {"model": "m"})
    for form in FORMATS:
        assert result_file(tmp_path, form).stat().st_size > 1000
    with h5py.File(result_file(tmp_path, "hdf5")) as product:
        assert product["object"].shape == (1, *stitched.image.shape)
        assert product["probe"].shape == (1, *small_scan.probe.shape)
        pixel = product["object"].attrs["pixel_width_m"]
        centre = np.array([product["object"].attrs["center_y_m"], product["object"].attrs["center_x_m"]]) / pixel
        place = product["probe_position_y_m"][5] / pixel
        # Ptychodus: a position is the middle of a patch, seen from the middle of the object.
        row = place - centre[0] + stitched.image.shape[0] / 2
        expected = small_scan.positions_px[5, 0] - stitched.origin_px[0]  # pixel N//2 of the patch
        assert row == pytest.approx(expected, abs=1e-6)
    raw = result_file(tmp_path, "raw").read_bytes()
    length = int.from_bytes(raw[:4], "little")
    assert length % 4 == 0
    assert raw[4 : 4 + length].lstrip().startswith(b"{")


def test_problems_tell_no_secrets() -> None:
    folder = Path("/data/jobs/abc")
    problem = from_error(
        InputError(file=folder / "scan", field="xcoords", found=f"nothing in {folder}/scan", expected="numbers"),
        {folder / "scan": "mine.npz"},
    )
    assert "/data" not in str(problem.document())
    assert problem.document()["field"] == "xcoords"
    assert problem.status == 422
    hidden = from_error(KeyError("/etc/passwd"))
    assert hidden.status == 500
    assert "passwd" not in str(hidden.document())
    assert from_error(OSError(28, "full")).status == 507


def test_a_stream_is_spooled_and_resumed(tmp_path: Path, rng: np.random.Generator) -> None:
    chosen = StreamSettings("ann", "m@1@x", 32, "uint16", "intensity", True, 1e-8, 3e5, None, electrons=True)
    frames = rng.integers(0, 100, (10, 32, 32), dtype=np.uint16)
    positions = rng.uniform(20, 60, (10, 2))
    probe = np.ones((1, 32, 32), np.complex64)
    spool = Spool.create(tmp_path / "s", chosen, probe)
    spool.append(positions[:6], frames[:6])
    with pytest.raises(Problem, match="open elsewhere"):
        Spool.open(tmp_path / "s", "ann")
    spool.close()
    with (tmp_path / "s" / "frames").open("ab") as torn:
        torn.write(b"half a frame")
    with pytest.raises(Problem, match="no such stream"):
        Spool.open(tmp_path / "s", "bob")
    spool = Spool.open(tmp_path / "s", "ann")
    assert spool.count == 6
    spool.append(positions[6:], frames[6:])
    some = np.array([1, 4, 9])
    read_positions, read_frames = spool.read(some)
    np.testing.assert_array_equal(read_frames, frames[some])
    np.testing.assert_array_equal(read_positions, positions[some])
    scan = load_data(spool.as_scan())
    assert scan.probe.shape == (1, 32, 32)
    assert not scan.probe_is_guess
    np.testing.assert_array_equal(scan.patterns.intensity(), frames)
    np.testing.assert_array_equal(scan.positions_px, positions)
    assert scan.pixel_size_m == 1e-8
    assert scan.electrons
    assert scan.wavelength_m == pytest.approx(1.9687e-12, rel=1e-4)


def test_the_live_image_grows_to_what_the_whole_reconstruction_shows(loaded: LoadedModel, small_scan: Any) -> None:
    amplitude, physics = small_scan.patterns.amplitude(), ScanPhysics.of(loaded, small_scan)
    live = LiveImage(32, 10**6)
    for start in range(0, len(small_scan), 13):
        rows = slice(start, start + 13)
        live.add(*predict(physics, amplitude[rows], small_scan.positions_px[rows], "amplitude"))
    assert live.patterns == len(small_scan)
    image, origin, step = live.picture()
    stitched = reconstruct(small_scan, loaded, Options())
    assert step == 1
    row, column = (int(o - s) for o, s in zip(origin, stitched.origin_px, strict=True))
    whole = stitched.image[row : row + image.shape[0], column : column + image.shape[1]]
    inside = (np.abs(image) > 0) & (np.abs(whole) > 0)
    alike = np.vdot(image[inside], whole[inside]) / np.linalg.norm(image[inside]) / np.linalg.norm(whole[inside])
    assert abs(alike) > 0.85


def test_a_live_image_does_not_grow_beyond_its_limit(loaded: LoadedModel) -> None:
    live = LiveImage(32, 10_000)
    weight = np.ones((32, 32), np.float32)
    live.add(np.ones((1, 32, 32), np.complex64), np.array([[50.0, 50.0]]), np.ones((32, 32), np.float32))
    live.add(np.ones((1, 32, 32), np.complex64), np.array([[1e6, 1e6]]), weight)
    assert live.patterns <= 1


def test_groups_have_a_live_image_too(small_scan: Any, tmp_path: Path, write_model: Any) -> None:
    path = write_model(tmp_path / "pairs", small_scan, gridsize=2)
    loaded = LoadedModel.load(path, settings(tmp_path))
    amplitude = small_scan.patterns.amplitude()[:20]
    physics = ScanPhysics.of(loaded, small_scan)
    patches, places, weight = predict(physics, amplitude, small_scan.positions_px[:20], "amplitude")
    assert patches.shape == (20, 32, 32)
    assert places.shape == (20, 2)
    assert weight.shape == (32, 32)


def test_nothing_unsafe_is_started(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without a token"):
        check_before_start(settings(tmp_path, models={"m": model_file}, require_token=False), "0.0.0.0")
    with pytest.raises(ConfigurationError, match="ptycho-ray token add"):
        check_before_start(settings(tmp_path, models={"m": model_file}), "0.0.0.0")
    with pytest.raises(InputError, match="bundle"):
        check_before_start(settings(tmp_path, models={"m": tmp_path}, require_token=False), "127.0.0.1")
    assert check_before_start(settings(tmp_path, require_token=False), "127.0.0.1") == []
    assert check_before_start(settings(tmp_path, models={"m": model_file}, require_token=False), "::1") == ["m@1"]


def test_models_on_the_command_line(model_file: Path) -> None:
    assert named_models((str(model_file), f"x={model_file.parent}")) == {
        model_file.parent.name: model_file,
        "x": model_file.parent,
    }
    with pytest.raises(InputError, match="MODEL"):
        named_models(("nowhere",))


def test_a_request_says_how_its_file_is_read_by_names_in_it_only(small_scan: RawData, tmp_path: Path) -> None:
    path, mask = tmp_path / "scan.h5", tmp_path / "mask.npy"
    with h5py.File(path, "w") as file:
        file["measured"], file["where"] = small_scan.patterns.intensity(), small_scan.positions_px
        file["bad"] = np.eye(small_scan.N)
    np.save(mask, np.eye(small_scan.N))
    how = {"frames": "measured", "positions": "where", "mask": "bad", "select": "0:9", "drop": "3"}
    scan = read_scan(path, settings(tmp_path), Options(reading=how))
    np.testing.assert_array_equal(scan.positions_px, small_scan.positions_px[[0, 1, 2, 4, 5, 6, 7, 8]])
    assert scan.bad_pixels is not None
    assert scan.bad_pixels[5, 5]
    for name in ("mask", "probe", "positions"):
        with pytest.raises(InputError, match=f"{name}: found"):
            read_scan(path, settings(tmp_path), Options(reading=how | {name: str(mask)}))
