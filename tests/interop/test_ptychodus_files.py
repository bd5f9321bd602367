"""The files of Ptychodus without Ptychodus: products, matching of positions, and commands on a folder."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import PATIENCE_S, wait_for

from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.data.auxiliary_file import matched
from ptycho_ray.data.formats.ptychodus_folder import (
    detector_pixel_of,
    in_frame,
    product_of_scan,
    read_standard_folder,
    reconstructed,
    with_geometry,
    with_positions,
    write_standard_folder,
)
from ptycho_ray.data.formats.ptychodus_product import Product, read_product, write_product
from ptycho_ray.errors import ConfigurationError, InputError, MissingFileError
from ptycho_ray.interop.ptychodus.options import CHECKPOINT_INTERVAL, OPTIONS, RECORD_IMAGES, read_ini
from ptycho_ray.interop.ptychodus.process import ProgramFailed, run_program

GEOMETRY = {"energy_eV": 8000.0, "detector_distance_m": 2.0, "detector_pixel_m": 75e-6}
FAST = ["--n-filters-scale", "1", "--batch-size", "16", "--nepochs", "2"]


@pytest.fixture
def folder(tmp_path: Path, small_scan) -> Path:
    return write_standard_folder(tmp_path / "in", small_scan, **GEOMETRY)


def example(rng: np.random.Generator, n: int = 5) -> Product:
    return Product(
        probe=(rng.normal(size=(1, 2, 8, 8)) + 1j).astype(np.complex64),
        object=(rng.normal(size=(2, 12, 10)) + 1j).astype(np.complex64),
        pixel_m=(2e-8, 1e-8),
        probe_pixel_m=(4e-8, 3e-8),
        centre_m=(1e-6, -2e-6),
        indexes=np.array([3, 5, 5, 9, 12])[:n],
        positions_m=rng.uniform(-1e-6, 1e-6, (n, 2)),
        layer_spacing_m=np.array([1e-6]),
        losses=np.array([[1, 0.5], [2, 0.25]]),
        opr_weights=np.ones((n, 1)),
        photon_counts=np.arange(n, dtype=float),
        metadata={
            "name": "a scan",
            "comments": "two\nlines",
            "detector_object_distance_m": 2.0,
            "photon_energy_eV": 8000.0,
            "mass_attenuation_m2_per_kg": 0.5,
            "far_field": False,
            "polarization": "left_circular",
        },
    )


@pytest.mark.parametrize("name", ["product.h5", "product.npz"])
def test_a_product_comes_back_whole(tmp_path, rng, name):
    product = example(rng)
    write_product(tmp_path / name, product)
    back = read_product(tmp_path / name)
    for name in ("probe", "object", "indexes", "positions_m", "layer_spacing_m", "losses", "opr_weights"):
        np.testing.assert_array_equal(getattr(back, name), getattr(product, name))
    assert (back.pixel_m, back.probe_pixel_m, back.centre_m) == (
        product.pixel_m,
        product.probe_pixel_m,
        product.centre_m,
    )
    assert product.metadata.items() <= back.metadata.items()


def test_a_product_has_the_names_of_old_and_new_releases(tmp_path, rng):
    path = tmp_path / "product.h5"
    write_product(path, example(rng))
    with h5py.File(path, "r+") as file:
        assert file.attrs["probe_energy_eV"] == file.attrs["photon_energy_eV"] == 8000.0
        assert file.attrs["mass_attenuation_m2_kg"] == file.attrs["mass_attenuation_m2_per_kg"] == 0.5
        del file.attrs["photon_energy_eV"], file.attrs["mass_attenuation_m2_per_kg"]
    old = read_product(path).metadata
    assert (old["photon_energy_eV"], old["mass_attenuation_m2_per_kg"]) == (8000.0, 0.5)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda file: file.__delitem__("object"), "object"),
        (lambda file: file.attrs.__delitem__("detector_object_distance_m"), "detector_object_distance_m"),
        (lambda file: file["object"].attrs.__delitem__("center_x_m"), "center_x_m"),
        (lambda file: file["object"].attrs.__setitem__("pixel_width_m", -1.0), "pixel_width_m"),
        (lambda file: file.__delitem__("probe_position_x_m"), "probe_position_x_m"),
    ],
)
def test_a_damaged_product_is_named(tmp_path, rng, damage, named):
    path = tmp_path / "product.h5"
    write_product(path, example(rng))
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=named):
        read_product(path)


def test_a_truncated_product_is_an_input_error(tmp_path, rng):
    path = tmp_path / "product.h5"
    write_product(path, example(rng))
    content = path.read_bytes()
    for part in (0.05, 0.3, 0.9):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(InputError):
            read_product(path)


def test_positions_are_matched_as_ptychodus_does(tmp_path, rng):
    """Twice the same number: the mean. None in between: interpolated. Beyond the first and last: left out."""
    product = example(rng)
    frames = np.array([12, 2, 5, 7, 3, 40])
    rows, positions = matched(frames, product.indexes, product.positions_m, tmp_path)
    np.testing.assert_array_equal(rows, [0, 2, 3, 4])
    p = product.positions_m
    middle = (p[1] + p[2]) / 2
    np.testing.assert_allclose(positions, [p[4], middle, (middle + p[3]) / 2, p[0]])
    with pytest.raises(InputError, match="indexes"):
        matched(np.array([0, 1]), product.indexes, product.positions_m, tmp_path)


def test_a_scan_comes_back_from_the_standard_layout(folder, small_scan):
    scan, product = read_standard_folder(folder)
    np.testing.assert_allclose(scan.positions_px, small_scan.positions_px, atol=1e-6)
    np.testing.assert_allclose(scan.patterns.intensity(), small_scan.patterns.intensity())
    np.testing.assert_array_equal(scan.object_truth, small_scan.object_truth)
    assert not scan.patterns.in_memory
    assert scan.counts_are_photons
    photons = np.sum(np.abs(scan.probe) ** 2)
    np.testing.assert_allclose(photons, small_scan.pattern_energies().mean(), rtol=1e-5)
    geometric = with_geometry(small_scan, *GEOMETRY.values())
    assert product.pixel_m[0] == pytest.approx(geometric.pixel_size_m)
    assert detector_pixel_of(geometric) == pytest.approx(75e-6)


def test_the_middle_of_a_patch_lies_where_ptychodus_says(folder, small_scan):
    """Patch pixel (N - 1) / 2 at (p - centre) / pixel + (W - 1) / 2, so our pixel N // 2 half a pixel further."""
    _, product = read_standard_folder(folder)
    height, width = product.object.shape[-2:]
    x = (product.positions_m[:, 1] - product.centre_m[1]) / product.pixel_m[1] + (width - 1) / 2
    y = (product.positions_m[:, 0] - product.centre_m[0]) / product.pixel_m[0] + (height - 1) / 2
    np.testing.assert_allclose(np.stack([y, x], axis=1) + 0.5, small_scan.positions_px, atol=1e-6)


def test_without_a_geometry_nothing_is_written(tmp_path, small_scan):
    with pytest.raises(InputError, match="energy_eV"):
        write_standard_folder(tmp_path, small_scan)


def test_an_image_keeps_its_place_and_the_frame_its_centre():
    image = np.ones((4, 5), np.complex64)
    inside = in_frame(image, (2.0, 3.0), (10, 12))
    assert inside.shape == (10, 12)
    assert np.argwhere(inside).min(axis=0).tolist() == [2, 3]
    grown = in_frame(image, (-3.0, 9.0), (10, 12))
    assert grown.shape == (16, 16)  # three more rows and two more columns on either side
    assert np.argwhere(grown).min(axis=0).tolist() == [0, 11]


def test_a_result_keeps_what_is_not_ours(rng):
    product = example(rng)
    probe = np.full((1, 8, 8), 2.0, np.complex64)
    result = reconstructed(product, np.ones((12, 10), np.complex64), (0, 0), probe, [3.0, 2.0], "Done.")
    for name in ("indexes", "positions_m", "pixel_m", "centre_m", "probe_pixel_m"):
        np.testing.assert_array_equal(getattr(result, name), getattr(product, name))
    assert result.metadata["probe_photon_count"] == 256.0
    assert "sum |P|^2 = 256 photons" in result.metadata["comments"]
    assert result.metadata["comments"].startswith("two\nlines\nDone.")
    assert result.losses.tolist() == [[1, 3], [2, 2]]
    assert result.object.shape == (1, 12, 10)
    again = reconstructed(result, result.object[0], (0, 0), probe / 2, [], "Again.")
    assert again.metadata["comments"].count("The probe is") == 1


def test_a_product_of_a_scan_without_geometry_says_so(small_scan):
    product = product_of_scan(small_scan, np.ones((80, 80), np.complex64), (0.0, 0.0), "Made.")
    assert "Unknown, and not what stands here: pixel_size_m, energy_eV" in product.metadata["comments"]
    np.testing.assert_array_equal(product.indexes, np.arange(len(small_scan)))


def test_defaults_of_the_ini_file_are_those_of_the_program(tmp_path):
    config = TrainingConfig(model=ModelConfig())
    execution = ExecutionConfig()
    for option in OPTIONS:
        section, _, name = option.setting.rpartition(".")
        if section == "host" or option.default == option.unset or option.setting == RECORD_IMAGES:
            continue
        place = {"": config, "model": config.model, "execution": execution}[section]
        assert getattr(place, name) == option.default, option.key
    (tmp_path / "s.ini").write_text(
        "[Processing]\nAlgorithm = x\n[ptychoray]\nepochs = 7\nWorkers = 2\n"
        "BatchSize = 16\nCheckpointInterval = 0\nRayAddress =\nProbeTrainable = True\n"
    )
    assert read_ini(tmp_path / "s.ini") == {
        "nepochs": 7, "execution.devices": "2", RECORD_IMAGES: None, "probe_trainable": True
    }  # fmt: skip
    assert read_ini(tmp_path / "none.ini") == {}
    assert CHECKPOINT_INTERVAL > 0


@pytest.mark.parametrize("text", ["Epoch = 7", "Epochs = many", "ProbeTrainable = 3.5"])
def test_a_wrong_entry_of_the_ini_file_is_named(tmp_path, text):
    (tmp_path / "s.ini").write_text(f"[PtychoRay]\n{text}\n")
    with pytest.raises(ConfigurationError, match=f"(?i){text.split()[0]}"):
        read_ini(tmp_path / "s.ini")


def test_the_ini_file_is_stronger_than_yaml_and_weaker_than_the_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text("nepochs: 3\nbatch_size: 8\nseed: 5\n")
    resolved = resolve_config(
        TrainingConfig, tmp_path / "c.yaml", {}, {"seed": 7}, host={"nepochs": 4, "seed": 6}, host_name="settings.ini"
    )
    assert (resolved.config.nepochs, resolved.config.batch_size, resolved.config.seed) == (4, 8, 7)
    assert resolved.provenance["nepochs"] == "settings.ini"


def events_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_train_and_reconstruct_a_folder(folder, tmp_path, capfd):
    (folder / "settings.ini").write_text("[PtychoRay]\nEpochs = 2\nFiltersScale = 1\nCheckpointInterval = 1\n")
    model, image = tmp_path / "model", tmp_path / "image"
    file = tmp_path / "events.jsonl"
    assert main(["train", "--input", str(folder), "--output", str(model), "--event-file", str(file)]) == 0
    events = events_of(file.read_text())
    assert [event["event"] for event in events if event["event"] != "checkpoint"] == [
        "started",
        "epoch",
        "epoch",
        "finished",
    ]
    assert [event["epoch"] for event in events if event["event"] == "checkpoint"] == [1, 2]
    assert events[-1]["path"] == str(model / "product.h5")
    before, after = read_product(folder / "product.h5"), read_product(model / "product.h5")
    checkpoint = read_product(model / "product.000001.h5")
    assert len(checkpoint.losses) == 1
    assert after.losses[:, 0].tolist() == [1, 2]
    for name in ("indexes", "positions_m", "pixel_m", "centre_m"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.object.shape == before.object.shape
    assert np.abs(after.object).max() > 0

    capfd.readouterr()
    words = ["--input", str(folder), "--output", str(image), "--model-path", str(model)]
    assert main(["reconstruct", *words]) == 0
    said = events_of(capfd.readouterr().out)  # nothing else is on standard output
    assert said[0]["event"] == "started"
    assert said[-1]["event"] == "finished"
    network = read_product(image / "product.h5")
    assert network.object.any()

    assert main(["reconstruct", *words, "--refine", "3"]) == 2  # there is a product already
    assert "--overwrite" in events_of(capfd.readouterr().out)[-1]["message"]
    assert main(["reconstruct", *words, "--refine", "3", "--overwrite"]) == 0
    said = events_of(capfd.readouterr().out)
    assert [event["epoch"] for event in said if event["event"] == "epoch"] == [1, 2, 3]
    refined = read_product(image / "product.h5")
    assert refined.losses[:, 0].tolist() == [1, 2, 3]
    assert refined.losses[-1, 1] < refined.losses[0, 1]
    assert refined.object.shape == network.object.shape
    assert not np.allclose(refined.object, network.object)
    assert not np.allclose(refined.probe, network.probe)


@pytest.mark.slow
def test_a_folder_without_a_model_is_reconstructed_automatically(folder, tmp_path, capfd):
    (folder / "settings.ini").write_text("[PtychoRay]\nSeed = 5\nSolver = iterations=9, position_start=none\n")
    image = tmp_path / "image"
    words = ["--input", str(folder), "--output", str(image), "--refinement.iterations", "4"]
    assert main(["reconstruct", *words]) == 0
    said = events_of(capfd.readouterr().out)
    assert [event["epoch"] for event in said if event["event"] == "epoch"] == [1, 2, 3, 4]
    assert len([event for event in said if event["event"] == "decided"]) >= 2
    kept = json.loads((image / "result.json").read_text())
    assert kept["provenance"]["settings"]["seed"] == 5
    before, after = read_product(folder / "product.h5"), read_product(image / "product.h5")
    np.testing.assert_allclose(after.positions_m, before.positions_m, atol=1e-3 * before.pixel_m[0])
    assert kept["verdict"] in after.metadata["comments"]
    assert len(after.losses) == 4
    assert after.object.any()


def test_positions_of_a_product_go_to_pixels_and_back(folder, rng):
    _, product = read_standard_folder(folder)
    wanted = rng.uniform(20, 50, (3, 2))
    moved = with_positions(product, product.indexes[[4, 1, 7]], wanted, 32)
    np.testing.assert_allclose(moved.to_object_px(moved.positions_m[[4, 1, 7]], 32), wanted)
    others = np.setdiff1d(np.arange(len(product.indexes)), [4, 1, 7])
    np.testing.assert_array_equal(moved.positions_m[others], product.positions_m[others])


def test_wrong_use_of_a_folder(folder, tmp_path, capfd):
    assert main(["train", "--input", str(tmp_path / "nowhere"), "--output", str(tmp_path)]) == 2
    assert events_of(capfd.readouterr().out)[-1]["event"] == "error"
    assert main(["train", "--input", str(folder), "--output", str(folder)]) == 2
    words = ["reconstruct", "--input", str(folder), "--output", str(tmp_path / "out")]
    assert main([*words, "--refine", "2", "--model-path", str(tmp_path)]) == 2  # no model
    assert "wts.h5.zip" in events_of(capfd.readouterr().out)[-1]["message"]
    assert main([*words, "--units", "um", "--drop", "3"]) == 2
    said = events_of(capfd.readouterr().out)[-1]["message"]
    assert said.endswith(f"Type: ptycho-ray reconstruct {folder / 'diffraction.h5'} --units um --drop 3")
    before = (folder / "product.h5").read_bytes()
    assert main([*words, "--event-file", str(folder / "product.h5")]) == 2
    assert (folder / "product.h5").read_bytes() == before
    capfd.readouterr()
    assert main([*words, "--plan"]) == 2
    assert "--input" in events_of(capfd.readouterr().out)[-1]["message"]
    (folder / "settings.ini").write_text("[PtychoRay]\nSolver = probe_modes\n")
    assert main(words) == 2
    assert "NAME=VALUE" in events_of(capfd.readouterr().out)[-1]["message"]
    (folder / "settings.ini").unlink()
    (folder / "diffraction.h5").write_bytes(b"nonsense")
    assert main(["train", "--input", str(folder), "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out" / "product.h5").exists()


def processor_s(pid: int) -> float:
    """The processor time that a living process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
@pytest.mark.slow
def test_sigterm_cancels_in_time(folder, tmp_path, workers):
    """Ptychodus kills what has not ended after 10 seconds. Of one process they are counted in its own time, which others
    that compute do not change."""
    if workers:
        pytest.importorskip("ray")
    words = ["train", "--input", str(folder), "--output", str(tmp_path / "out"), *FAST, "--nepochs", "5000", *workers]
    program = subprocess.Popen([sys.executable, "-m", "ptycho_ray", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        next(line for line in program.stdout if json.loads(line)["event"] == "epoch")
        before = processor_s(program.pid)
        program.send_signal(signal.SIGTERM)
        said = events_of(program.stdout.read())
        _, status, used = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
        assert program.returncode == 130
        assert used.ru_utime + used.ru_stime - before < 10
    finally:
        program.kill()
    kinds = [event["event"] for event in said]
    assert "cancelling" in kinds
    assert said[-1] == {"event": "finished", "cancelled": True, "path": None, "elapsed_s": said[-1]["elapsed_s"]}
    assert not (tmp_path / "out" / "product.h5").exists()


def test_work_that_does_not_listen_is_ended(tmp_path):
    """Work that cannot be interrupted ends with the process after the grace."""
    code = (
        "import ptycho_ray.interop.ptychodus.events as e, signal, time, sys\n"
        "from pathlib import Path\n"
        "e.GRACE_S = 0.5\n"
        "with e.event_stream(Path(sys.argv[1])) as events:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "    events.emit('started')\n"
        "    while True: time.sleep(0.1)\n"
    )
    file = tmp_path / "events"
    program = subprocess.Popen([sys.executable, "-c", code, str(file)])
    wait_for(lambda: file.exists() and file.read_text(), "the first event")
    program.send_signal(signal.SIGTERM)
    assert program.wait(PATIENCE_S) == 130
    assert [event["event"] for event in events_of(file.read_text())] == ["started", "cancelling", "finished"]


@pytest.mark.slow
def test_a_reader_that_went_away_cancels(folder, tmp_path):
    words = ["train", "--input", str(folder), "--output", str(tmp_path / "out"), *FAST, "--nepochs", "5000"]
    program = subprocess.Popen(
        [sys.executable, "-m", "ptycho_ray", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert program.stdout is not None
    program.stdout.readline()
    program.stdout.close()
    assert program.wait(PATIENCE_S) == 130


def test_a_program_that_dies_is_noticed():
    """Killed, ended with an error, or gone without a word: never a wait without end."""

    def ending(code: str) -> str:
        with pytest.raises(ProgramFailed) as caught:
            for _ in run_program([], command=[sys.executable, "-c", code], heartbeat_s=0.2, log=logging.getLogger()):
                pass
        return str(caught.value)

    assert "SIGKILL" in ending("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "out of memory" in ending("import sys; sys.exit('out of memory')")
    assert "it printed nothing" in ending("pass")
    holder = "import os, time\nif os.fork() == 0: time.sleep(60)\nelse: os._exit(3)"  # its child holds the pipe
    assert "exit code 3" in ending(holder)
    with pytest.raises(ProgramFailed, match="cannot be run"):
        list(run_program([], command=["/no/such/program"], log=logging.getLogger()))


def test_closing_ends_the_program_and_its_children(tmp_path):
    code = (
        "import json, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(json.dumps({'event': 'started', 'child': child.pid}), flush=True)\n"
        "time.sleep(600)\n"
    )
    events = run_program([], command=[sys.executable, "-c", code], heartbeat_s=5, log=logging.getLogger())
    first = next(events)
    assert first is not None
    closing = threading.Thread(target=events.close)
    closing.start()
    closing.join(PATIENCE_S)
    wait_for(lambda: not _alive(first["child"]), "the end of the child")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_exported_training_data_train_too(small_scan, tmp_path):
    small_scan.to_file(tmp_path / "in" / "train_data.npz")
    words = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *FAST[:-1], "1"]
    assert main(["train", *words, "--event-file", str(tmp_path / "events")]) == 0
    assert (tmp_path / "out" / "model.wts.h5.zip").is_file()
    assert not (tmp_path / "out" / "product.h5").exists()
    (tmp_path / "in" / "train_data.npz").rename(tmp_path / "in" / "a.npz")
    small_scan.to_file(tmp_path / "in" / "b.npz")
    assert main(["train", *words, "--event-file", str(tmp_path / "events")]) == 2


def test_a_product_needs_a_file(tmp_path):
    with pytest.raises(MissingFileError):
        read_product(tmp_path / "product.h5")
