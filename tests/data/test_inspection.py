"""info: overlap figures with known values, and suspicions that arise where they should and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.inspection import suspected_problems, symmetry_centre, turned_against_probe
from ptycho_ray.data.overlap import disc_overlap, overlap_metrics
from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import probe_diameter_px


def test_overlap_of_two_discs() -> None:
    """Whole, the lens of two discs a radius apart, and none."""
    np.testing.assert_allclose(disc_overlap([0.0, 5.0, 10.0, 30.0], 10.0), [1, 2 / 3 - np.sqrt(3) / (2 * np.pi), 0, 0])
    assert disc_overlap(5.0, 10.0) == pytest.approx(0.391, abs=5e-4)
    distance = np.linspace(0, 12, 100)
    assert np.all(np.diff(disc_overlap(distance, 10.0)) <= 0)


def test_overlap_metrics_of_a_square_grid() -> None:
    grid = np.stack(np.meshgrid(np.arange(30.0), np.arange(30.0)), axis=-1).reshape(-1, 2)
    found = overlap_metrics(grid, 1.2, neighbor_count=4, n_groups=50)
    inner = float(disc_overlap(1.0, 1.2))
    assert found["overlap_of_groups"] == pytest.approx(inner)  # only nearest neighbours are closer than the diameter
    assert 0.9 * inner < found["overlap_of_images"] < inner  # at the rim a nearest neighbour is missing
    assert "overlap_in_groups" not in found
    doubled = overlap_metrics(np.concatenate([grid, grid]), 1.2, neighbor_count=4, n_groups=50)
    assert doubled["overlap_of_images"] == found["overlap_of_images"]  # duplicates count once
    grouped = overlap_metrics(grid, 3.0, gridsize=2, n_groups=50, neighbor_count=8)
    assert 0 < grouped["overlap_in_groups"] < 1
    assert grouped == overlap_metrics(grid, 3.0, gridsize=2, n_groups=50, neighbor_count=8)
    assert overlap_metrics(grid, 0.5)["overlap_of_groups"] == 0.0


@pytest.mark.parametrize(
    ("positions", "diameter", "options"),
    [(np.ones((4, 2)), 3.0, {}), (np.eye(2), 0.0, {}), (np.eye(2), np.nan, {}), (np.eye(2), 1.0, {"used_fraction": 0})],
)
def test_degenerate_geometry_is_refused(positions: np.ndarray, diameter: float, options: Any) -> None:
    with pytest.raises(InputError):
        overlap_metrics(positions, diameter, **options)


def problems(scan: RawData) -> str:
    return "; ".join(each.problem for each in suspected_problems(scan, probe_diameter_px(scan.probe)))


def changed(scan: RawData, **changes: Any) -> RawData:
    fields = {
        "xcoords": scan.xcoords,
        "ycoords": scan.ycoords,
        "xcoords_start": None,
        "ycoords_start": None,
        "diff3d": scan.patterns.intensity(),
        "probeGuess": scan.probe,
        "domain": "intensity",
    }
    return RawData(**(fields | changes))


def test_a_good_scan_has_no_problems(small_scan: RawData) -> None:
    assert problems(small_scan) == ""


@pytest.mark.parametrize("name", ["sim64_1e6.npz", "lines64_train.npz", "lcls_run1084.npz", "aps_siemens.npz"])
def test_shared_scans_raise_no_alarm_about_patterns_or_probe(name: str, shared_data: Any) -> None:
    told = problems(load_data(shared_data(name), n_subsample=100))
    assert not any(word in told for word in ("corner", "hot", "dead", "off the centre", "probe holds")), told


@pytest.mark.filterwarnings("ignore:.*duplicates")
def test_each_suspicion(small_scan: RawData) -> None:
    frames = small_scan.patterns.intensity()
    assert "zero frequency seems to lie in a corner" in problems(
        changed(small_scan, diff3d=np.fft.fftshift(frames, axes=(1, 2)))
    )
    assert "the beam is +5.0 rows, +0.0 columns" in problems(changed(small_scan, diff3d=np.roll(frames, 5, axis=1)))
    hot = frames.copy()
    hot[:, 2, 3], hot[:, 16, 17] = 3000, 0
    assert "1 pixels look hot" in problems(changed(small_scan, diff3d=hot))
    assert "1 pixels look dead" in problems(changed(small_scan, diff3d=hot))
    masked = np.zeros((32, 32), bool)
    masked[2, 3] = masked[16, 17] = True
    assert "pixels look" not in problems(changed(small_scan, diff3d=hot, bad_pixels=masked))
    assert "edge of the patterns" in problems(changed(small_scan, diff3d=frames + np.float32(50)))
    dark = frames.copy()
    dark[[4, 7]] *= 0.01
    assert "2 patterns hold less than a tenth" in problems(changed(small_scan, diff3d=dark))
    assert "the probe holds 0.00" in problems(changed(small_scan, probeGuess=small_scan.probe * 0.03))
    assert "the probe is +0.0 rows, +9.0 columns" in problems(
        changed(small_scan, probeGuess=np.roll(small_scan.probe, 9, axis=2))
    )
    for factor, message in ((20, "in a window of 32"), (4, "little overlap"), (1e-3, "implausibly little")):
        moved = changed(small_scan, xcoords=factor * small_scan.xcoords, ycoords=factor * small_scan.ycoords)
        assert message in problems(moved)
    repeated = small_scan.xcoords.copy(), small_scan.ycoords.copy()
    for each in repeated:
        each[5] = each[6]
    assert "1 positions are duplicates" in problems(changed(small_scan, xcoords=repeated[0], ycoords=repeated[1]))
    assert "leave the object" in problems(
        changed(small_scan, xcoords=small_scan.xcoords + 40, objectGuess=small_scan.object_truth)
    )
    geometry = {"energy_eV": 8e3, "detector_distance_m": 1.0, "detector_pixel_m": 75e-6, "pixel_size_m": 1e-7}
    assert "energy, distance and detector say 6.458e-08 m" in problems(changed(small_scan, **geometry))
    diameter = probe_diameter_px(small_scan.probe)
    near = str(suspected_problems(changed(small_scan, far_field=False, **geometry), diameter))
    assert "near field" in near
    assert "--near-field-px2 20.66" in near  # wavelength * distance / (detector pixel * object pixel)
    assert "say 6.458e-08 m" not in near


@pytest.mark.parametrize("name", ["aps_siemens.npz", "lcls_run1084.npz"])
def test_frames_that_are_turned_against_the_probe(name: str, shared_data: Any) -> None:
    """Both ends of detectors: exchanged rows and columns, and frames that are read from the other side."""
    scan = load_data(shared_data(name), n_subsample=100)
    assert turned_against_probe(scan) == ""
    frames = scan.patterns.intensity()
    assert turned_against_probe(changed(scan, diff3d=frames.swapaxes(1, 2))) == "rows and columns exchanged"
    upside_down = np.roll(frames[:, ::-1], 1, axis=1)
    told = problems(changed(scan, diff3d=upside_down))
    assert "the mean pattern matches the diffraction pattern of the probe if that is turned: upside down" in told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no probe found")
def test_a_measured_near_field_scan_is_solved_by_what_info_says(shared_data: Any, tmp_path: Path) -> None:
    """The number comes from info, the probe from the mean frame taken back over it; the star is then found in 20 iterations."""
    scan, near = str(shared_data("PETRAIII_P25_Near_Field_Ptycho.cxi")), "11.16"
    pixel, converted = ["--pixel-size-m", "1.787e-7"], str(tmp_path / "scan.npz")
    assert f"--near-field-px2 {near}" in str(suspected_problems(load_data(scan, pixel_size_m=1.787e-7), 3.0))
    assert main(["convert", scan, converted, *pixel, "--near-field-px2", near]) == 0
    words = ["--from", "flat", "--near-field-px2", near, "--iterations", "20", "--output-dir", str(tmp_path / "image")]
    assert main(["refine", converted, *words]) == 0
    result = json.loads((tmp_path / "image" / "result.json").read_text())
    assert result["held_out_r_factor"] < 0.11


def test_symmetry_centre_does_not_follow_a_bright_side() -> None:
    rows, columns = np.indices((40, 50))
    ring = np.abs(np.hypot(rows - 18, columns - 27) - 9) < 2
    assert symmetry_centre(ring * (1.0 + 5 * (columns > 27))) == (18.0, 27.0)
    assert symmetry_centre(np.zeros((4, 6))) == (2, 3)


def test_info_of_scans_and_parts(small_scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = changed(
        small_scan, pixel_size_m=6.458e-8, energy_eV=8e3, detector_distance_m=1.0, objectGuess=small_scan.object_truth
    )
    scan.to_file(tmp_path / "product.h5", "ptychodus")

    def told(*words: Any) -> dict[str, Any]:
        assert main(["info", *map(str, words), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    whole = told(tmp_path / "product.h5", "--gridsize", 2)
    assert whole["kind"] == "scan"
    assert whole["format"].startswith("ptychodus ")
    assert whole["geometry"]["detector_pixel_m"] == pytest.approx(75e-6, rel=1e-3)
    assert {"overlap_of_images", "overlap_in_groups", "overlap_of_groups"} <= set(whole["overlap"])
    assert whole["suspected_problems"] == "none"
    assert whole["dose"]["photons_a_pattern"] == pytest.approx(small_scan.pattern_energies().mean(), rel=1e-4)
    (tmp_path / "diffraction.h5").rename(tmp_path / "elsewhere.h5")
    part = told(tmp_path / "product.h5")
    assert part["kind"] == "part of a scan"
    assert part["missing"] == ["patterns, in another file"]
    assert part["next"].startswith("Type: ptycho-ray info PATTERNS --companion ")
    assert part["verdict"].endswith(part["next"])
    assert told(tmp_path / "elsewhere.h5", "--companion", tmp_path / "product.h5")["kind"] == "scan"
