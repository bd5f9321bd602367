"""RawData: constructors, views, selection, files, and the input it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_ray.data import PatternStack, RawData, load_data
from ptycho_ray.errors import InputError

N = 16


def arguments(n: int = 12, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    fields = {
        "xcoords": rng.uniform(10, 50, n),
        "ycoords": rng.uniform(10, 50, n),
        "xcoords_start": None,
        "ycoords_start": None,
        "diff3d": rng.poisson(30.0, (n, N, N)).astype(np.uint16),
        "probeGuess": rng.random((N, N)) + 1j * rng.random((N, N)),
    }
    return fields | changes


def test_positions_are_row_column_and_views_are_x_y() -> None:
    fields = arguments(xcoords_start=np.arange(12.0), ycoords_start=np.arange(12.0) + 5)
    raw = RawData(**fields)
    np.testing.assert_array_equal(raw.positions_px, np.stack([fields["ycoords"], fields["xcoords"]], axis=1))
    np.testing.assert_array_equal(raw.xcoords, fields["xcoords"])
    np.testing.assert_array_equal(raw.xcoords_start, np.arange(12))
    np.testing.assert_array_equal(raw.ycoords_start, np.arange(12) + 5)
    np.testing.assert_array_equal(raw.scan_index, np.zeros(12))
    np.testing.assert_allclose(raw.diff3d, np.sqrt(fields["diff3d"]), rtol=1e-6)
    assert len(raw) == 12
    assert raw.probe.shape == (1, N, N)
    assert raw.probeGuess.shape == (N, N)
    assert raw.probeGuess.dtype == np.complex64


def test_positions_without_correction_are_nominal_too() -> None:
    fields = arguments()
    raw = RawData.from_coords_without_pc(
        fields["xcoords"], fields["ycoords"], fields["diff3d"], fields["probeGuess"], np.arange(12)
    )
    np.testing.assert_array_equal(raw.nominal_positions_px, raw.positions_px)
    np.testing.assert_array_equal(raw.scan_index, np.arange(12))


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_coordinates_of_any_number_type_become_float64(dtype: type) -> None:
    coordinates = np.arange(12).astype(dtype)
    raw = RawData(**arguments(xcoords=coordinates, ycoords=coordinates))
    assert raw.positions_px.dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "modes"), [((N, N), 1), ((N, N, 1), 1), ((3, N, N), 3), ((1, N, N), 1), ((2, 3, N, N), 3)]
)
def test_probe_shapes(shape: tuple[int, ...], modes: int) -> None:
    assert RawData(**arguments(probeGuess=np.ones(shape))).probe.shape == (modes, N, N)


def test_domain_is_amplitude_by_contract_and_counts_by_value() -> None:
    counts = arguments()["diff3d"]
    stored_counts, amplitudes = RawData(**arguments()), RawData(**arguments(diff3d=np.sqrt(counts)))
    scaled = RawData(**arguments(diff3d=np.sqrt(counts) / 7))
    assert (stored_counts.patterns.domain, stored_counts.counts_are_photons) == ("intensity", True)
    assert (amplitudes.patterns.domain, amplitudes.counts_are_photons) == ("amplitude", True)
    assert (scaled.patterns.domain, scaled.counts_are_photons) == ("amplitude", False)
    np.testing.assert_allclose(amplitudes.patterns.intensity(), counts, rtol=1e-5)
    assert RawData(**arguments(), domain="amplitude").patterns.domain == "amplitude"
    assert RawData(**arguments(diff3d=PatternStack(counts, "intensity"))).patterns.domain == "intensity"


def test_simulated_photons_are_drawn_from_the_generator() -> None:
    fields, image = arguments(), np.ones((64, 64), dtype=complex)
    x, y, probe = fields["xcoords"], fields["ycoords"], fields["probeGuess"]

    def simulate(seed: int) -> RawData:
        return RawData.from_simulation(x, y, probe, image, nphotons=1e5, generator=np.random.default_rng(seed))

    raw = simulate(1)
    np.testing.assert_array_equal(raw.patterns.intensity(), simulate(1).patterns.intensity())
    assert not np.array_equal(raw.patterns.intensity(), simulate(2).patterns.intensity())
    assert raw.counts_are_photons
    assert raw.pattern_energies().mean() == pytest.approx(1e5, rel=0.01)
    assert (np.abs(raw.probe) ** 2).sum() == pytest.approx(1e5, rel=0.01)


def test_select_keeps_everything_together() -> None:
    raw = RawData(**arguments(), Y=np.arange(12)[:, None, None] * np.ones((1, N, N)), scan_index=np.arange(12))
    part = raw.select([7, 2, 9]).select([2, 0])
    np.testing.assert_array_equal(part.sample_indices, [9, 7])
    np.testing.assert_array_equal(part.scan_index, [9, 7])
    np.testing.assert_array_equal(part.positions_px, raw.positions_px[[9, 7]])
    np.testing.assert_array_equal(part.patterns.intensity(), raw.patterns.intensity([9, 7]))
    np.testing.assert_array_equal(part.pattern_energies(), raw.pattern_energies()[[9, 7]])
    np.testing.assert_array_equal(part.truth_patches(np.array([0]))[0], raw.Y[9])
    assert len(raw.select(raw.xcoords > 0)) == 12


@pytest.mark.parametrize("name", ["scan.npz", "scan.h5"])
def test_file_round_trip(name: str, tmp_path: Path) -> None:
    mask = np.zeros((N, N), dtype=bool)
    mask[2, 3] = True
    details = {"pixel_size_m": 1e-8, "energy_eV": 8e3, "detector_distance_m": 2.0, "metadata": {"sample": "star"}}
    raw = RawData(
        **arguments(probeGuess=np.ones((2, N, N)), objectGuess=np.ones((70, 60))),
        scan_index=np.arange(12),
        bad_pixels=mask,
        **details,
    )
    raw.to_file(tmp_path / name)
    again, _ = RawData.from_files(tmp_path / name, tmp_path / name)
    np.testing.assert_allclose(again.patterns.intensity(), raw.patterns.intensity(), rtol=1e-6)
    for field in ("positions_px", "nominal_positions_px", "probe", "object_truth", "scan_index", "bad_pixels"):
        np.testing.assert_array_equal(getattr(again, field), getattr(raw, field), err_msg=field)
    assert again.counts_are_photons
    assert {field: getattr(again, field) for field in details} == details


def test_units_without_noise_survive_the_file(tmp_path: Path) -> None:
    fields = arguments()
    raw = RawData.from_simulation(fields["xcoords"], fields["ycoords"], fields["probeGuess"], np.ones((64, 64)))
    assert not raw.counts_are_photons
    raw.counts_are_photons = True
    raw.to_file(tmp_path / "a.npz")
    assert load_data(tmp_path / "a.npz").counts_are_photons


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = RawData(**arguments())
    raw.to_file(tmp_path / "scan.npz")
    before = (tmp_path / "scan.npz").read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no room on the disk"):
        raw.to_file(tmp_path / "scan.npz")
    assert (tmp_path / "scan.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npz"]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"xcoords": np.arange(11.0)}, "xcoords", "11 positions for 12 patterns; expected one position per pattern"),
        ({"ycoords": np.full(12, np.nan)}, "ycoords", "12 values that are not finite"),
        ({"xcoords": np.ones((12, 1))}, "xcoords", r"float64 array of shape \(12, 1\)"),
        ({"xcoords_start": np.arange(3.0), "ycoords_start": np.arange(12.0)}, "xcoords_start", "3 positions"),
        ({"xcoords": np.ones(12), "ycoords": np.ones(12)}, "xcoords, ycoords", "all 12 positions identical"),
        ({"xcoords": np.arange(12) * 1e-7, "ycoords": np.zeros(12)}, "xcoords", "probably in metres; .* pixel_size_m"),
        ({"probeGuess": np.ones((8, 8))}, "probeGuess", "a probe of 8 x 8 pixels; expected 16 x 16 like the patterns"),
        ({"probeGuess": np.ones(16)}, "probeGuess", r"shape \(16,\)"),
        ({"probeGuess": np.zeros((N, N))}, "probeGuess", "zeros only"),
        ({"probeGuess": np.full((N, N), np.nan)}, "probeGuess", "not finite"),
        ({"objectGuess": np.ones(5)}, "objectGuess", r"shape \(5,\)"),
        ({"Y": np.ones((3, N, N))}, "Y", r"found shape \(3, 16, 16\)"),
        ({"scan_index": np.arange(3)}, "scan_index", r"found shape \(3,\)"),
        ({"diff3d": np.zeros((12, N, N))}, "diff3d", "no signal .* in all 12 patterns"),
        ({"diff3d": np.ones((12, N, 8))}, "diff3d", "16 x 8 pixels; expected square"),
        ({"diff3d": -np.ones((12, N, N))}, "diff3d", "negative values in all 12 patterns"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^scan\.npz: {field}.*{message}"):
        RawData(**arguments(**changes), source="scan.npz")


def test_a_single_pattern_is_refused() -> None:
    with pytest.raises(InputError, match="found 1 pattern; expected a scan of at least 2"):
        RawData(**arguments(n=1))


def test_some_duplicated_positions_are_a_warning() -> None:
    fields = arguments()
    for name in ("xcoords", "ycoords"):
        fields[name][3:5] = fields[name][0]
    with pytest.warns(UserWarning, match="2 of 12 positions are duplicates"):
        RawData(**fields)


def test_pattern_size_other_than_configured() -> None:
    with pytest.raises(InputError, match="found patterns of 16 x 16 pixels; expected 64 x 64"):
        RawData(**arguments()).generate_grouped_data(64)
