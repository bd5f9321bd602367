"""The benchmark of the field: its contracts are the published ones, and another group can add a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT

from benchmarks.field import contracts, natural, page, results
from benchmarks.field.__main__ import DATA, PAGE, main
from benchmarks.field.cases import Case, believing, exposed, inside, raster
from benchmarks.field.figures import figures_of
from benchmarks.field.known_objects import Curve
from benchmarks.field.methods import constant
from benchmarks.field.published import PUBLISHED
from ptycho_ray.bundle import FILE_NAME
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe

PRETRAINED_FILE = ROOT / "ptycho_ray" / "models" / f"pretrained.{FILE_NAME}"


def small(data: Path, seed: int) -> Iterator[Case]:
    """A contract of one scan of nine patterns."""
    rng = np.random.default_rng(seed)
    truth = make_object("grf", (72, 72), rng, smoothing_px=2.0)
    probe = make_probe("zernike", 32, rng)
    scan = exposed(truth, probe, raster(72, 32, 20), 1e6, rng)
    yield Case("scan", scan, truth, (inside(scan.positions_px),))


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(contracts.CONTRACTS, "small", small)
    return "small"


def run(row: str, folder: Path, *more: str) -> int:
    return main(["run", row, "--seed", "1", "--results", str(folder), *more])


def test_the_natural_set_has_the_published_crops() -> None:
    crops = natural.crops("test")
    assert crops.shape == (1000, 128, 128)
    assert crops.mean() == pytest.approx(0.4429, abs=5e-5)
    assert crops.std() == pytest.approx(0.2240, abs=5e-5)
    astronaut = natural.grey_image("astronaut")
    np.testing.assert_array_equal(crops[0], astronaut[104 : 104 + 128, 174 : 174 + 128])


def test_the_wrong_probes_are_ten_with_the_photons_of_the_true_one() -> None:
    case = next(small(Path(), 1))
    probes = contracts.wrong_probes(case.scan.probe[0])
    assert len(probes) == 10
    assert {row.line for row in PUBLISHED["wrong_probe"]} == set(probes)
    energies = [np.sum(np.abs(believing(case.scan, probe).probe) ** 2) for probe in probes.values()]
    np.testing.assert_allclose(energies, np.sum(np.abs(case.scan.probe) ** 2), rtol=1e-5)
    np.testing.assert_allclose(probes["base"], case.scan.probe[0])


def test_a_curve_is_learnt_from_pixels_and_projects_onto_itself() -> None:
    rng = np.random.default_rng(0)
    amplitude = rng.uniform(0.5, 4.0, 20000)
    on_it = amplitude * np.exp(1j * np.tanh(amplitude - 2))
    curve = Curve(on_it)
    some = torch.from_numpy(on_it[:200]).to(torch.complex64)
    torch.testing.assert_close(curve.project(some), some, atol=0.02, rtol=0)
    beside = some * torch.exp(torch.tensor(0.3j))
    assert float((curve.project(beside) - some).abs().mean()) < 0.7 * float((beside - some).abs().mean())


@pytest.mark.skipif(not (DATA / contracts.LINES128).is_file(), reason="the scans of shared/data are not here")
def test_a_constant_image_has_its_known_figures_on_the_paper_scan() -> None:
    case = next(contracts.lines128(DATA, 1))
    found = figures_of(case, constant(case, 1))["test"]
    assert found["reference_amplitude_mae"] == pytest.approx(0.521, abs=5e-4)
    assert found["reference_phase_mae"] == pytest.approx(0.192, abs=5e-4)
    assert found["reference_amplitude_ssim"] == pytest.approx(0.236, abs=5e-4)


def test_only_the_reference_counts_a_turned_phase() -> None:
    case = next(small(Path(), 1))
    weight = np.ones(case.truth.shape, dtype=np.float32)
    found = figures_of(case, StitchedObject(case.truth * np.exp(3.0j), weight, (0.0, 0.0)))["scan"]
    assert found["reference_phase_mae"] > 0.1
    assert found["ours_phase_mae"] < 1e-3
    assert found["ours_complex_error"] < 1e-5


def test_images_of_another_program_are_a_row(contract: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", contract, str(tmp_path / "scans"), "--seed", "1"]) == 0
    assert (tmp_path / "scans" / "scan.npz").is_file()
    assert run("small/theirs", tmp_path, "--images", str(tmp_path)) == 2
    assert "scan.npy" in capsys.readouterr().err
    np.save(tmp_path / "scan.npy", next(small(Path(), 1)).truth)
    assert run("small/theirs", tmp_path, "--images", str(tmp_path), "--uses", "the truth") == 0
    found = results.read(results.path_of(contract, "theirs", 1, tmp_path))
    assert found.uses == "the truth"
    assert found.lines["scan"]["reference_amplitude_mae"] < 1e-5
    np.save(tmp_path / "scan.npy", np.ones((3, 3)))
    assert run("small/theirs", tmp_path, "--images", str(tmp_path), "--again") == 2
    assert "(3, 3)" in capsys.readouterr().err


def test_a_bundle_is_a_row(contract: str, tmp_path: Path) -> None:
    assert run("small/mine", tmp_path, "--bundle", str(PRETRAINED_FILE)) == 0
    found = results.read(results.path_of(contract, "mine", 1, tmp_path))
    assert found.parameters == 820436
    assert found.lines["scan"]["ours_complex_error"] < 0.2


def test_what_is_measured_is_left_alone(contract: str, tmp_path: Path) -> None:
    path = results.path_of(contract, "constant", 1, tmp_path)
    path.write_text("{}")
    assert run("small/constant", tmp_path) == 0
    assert path.read_text() == "{}"
    assert run("small/constant", tmp_path, "--again") == 0
    assert json.loads(path.read_text())["method"] == "constant"


def test_the_page_is_made_of_the_results() -> None:
    written = PAGE.read_text()
    assert page.text(written, results.all_results()) == written, "python -m benchmarks.field page"
