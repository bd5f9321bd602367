"""Normalisation constants and the container that carries them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_ray.config import ModelConfig, TrainingConfig
from ptycho_ray.data import (
    Normalisation,
    PtychoDataContainer,
    RawData,
    calculate_intensity_scale,
    load_data,
    normalize_data,
)
from ptycho_ray.data.normalisation import central_disc, scale_nphotons
from ptycho_ray.errors import InputError


@pytest.fixture(scope="module")
def small40(golden: Any) -> Any:
    return golden("a_grouping_small40.npz")


@pytest.fixture(scope="module")
def raw(small40: Any) -> RawData:
    names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "probeGuess")
    return RawData(*(small40[name] for name in names), objectGuess=small40["objectGuess"])


def training_config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(model=ModelConfig(N=64, gridsize=2), **settings)


@pytest.fixture(scope="module")
def container(small40: Any, raw: RawData) -> PtychoDataContainer:
    groups = small40["gs2_K7_seed0/nn_indices"]
    return PtychoDataContainer.from_groups(raw, groups, Normalisation.from_groups(raw, groups, training_config()))


@pytest.mark.parametrize("kind", ["amp", "u16"])
def test_normalize_data_equals_the_reference(kind: str, golden: Any) -> None:
    reference = golden("b_normalisation.npz")
    stored = reference[f"in_{kind}"]
    scaled = normalize_data(stored, 64)
    assert scaled.dtype == np.float32
    factor = scale_nphotons(stored, 32**2)
    assert factor == pytest.approx(float(reference[f"normalize_data/{kind}/factor"]), rel=1e-6)
    expected = reference[f"normalize_data/{kind}/out0"]
    np.testing.assert_allclose(scaled[0, ..., : expected.shape[-1]], expected, rtol=1e-6)
    assert np.square(scaled, dtype=np.float64).sum(axis=(1, 2)).mean() == pytest.approx(1024, rel=1e-6)


def test_calculate_intensity_scale_equals_the_reference(golden: Any) -> None:
    for N, nphotons, scale in golden("b_normalisation.npz")["calculate_intensity_scale_N_nphotons_scale"]:
        assert calculate_intensity_scale(nphotons, int(N)) == pytest.approx(scale, rel=1e-6)


def test_scale_nphotons_equals_the_reference(golden: Any) -> None:
    reference = golden("b_normalisation.npz")
    for nphotons, value in reference["scale_nphotons_nphotons_value"]:
        assert scale_nphotons(reference["in_amp"], nphotons) == pytest.approx(value, rel=1e-6)


def test_central_disc_has_the_pixels_of_the_reference() -> None:
    assert central_disc(64).sum() == 812


def test_photon_scale_makes_the_mean_pattern_hold_nphotons(container: PtychoDataContainer, raw: RawData) -> None:
    scales = container.normalisation
    assert not raw.counts_are_photons
    assert scales.mean_photons == pytest.approx(1e9)
    photons = raw.patterns.intensity() * scales.photon_scale
    assert photons.sum(axis=(1, 2), dtype=np.float64).mean() == pytest.approx(1e9, rel=1e-6)
    assert scales.probe_photons == pytest.approx(
        scales.photon_scale * (np.abs(raw.probe).astype(float) ** 2).sum(), rel=1e-6
    )


def test_counts_need_no_photon_scale(raw: RawData) -> None:
    counts = np.random.default_rng(0).poisson(raw.patterns.intensity() * 1e4).astype(np.uint16)
    measured = RawData(raw.xcoords, raw.ycoords, None, None, counts, raw.probe)
    groups = np.arange(40)[:, None]
    scales = Normalisation.from_groups(measured, groups, training_config())
    assert scales.photon_scale == 1.0
    assert scales.mean_photons == pytest.approx(counts.sum(axis=(1, 2)).mean())


def test_model_with_object_scale_is_the_reference_model(container: PtychoDataContainer, raw: RawData) -> None:
    """F(P * object_scale * O) in photons equals intensity_scale * F(normalised probe * O), O a network output."""
    scales = container.normalisation
    output = np.random.default_rng(0).random((64, 64))
    ours = np.fft.fft2(raw.probe[0] * np.sqrt(scales.photon_scale) * scales.object_scale * output, norm="ortho")
    mean_probe = np.mean(np.abs(raw.probe[0]) * central_disc(64))
    reference = np.fft.fft2(raw.probe[0] / (4.0 * mean_probe) * output, norm="ortho")
    grouped_photons = scales.photon_scale * raw.pattern_energies()[container.nn_indices].mean()
    np.testing.assert_allclose(ours, calculate_intensity_scale(grouped_photons, 64) * reference, rtol=1e-4)


def test_dictionary_round_trip(container: PtychoDataContainer) -> None:
    scales = container.normalisation
    assert Normalisation.from_dict(scales.to_dict()) == scales
    with pytest.raises(InputError, match="input_scale"):
        Normalisation.from_dict({"photon_scale": 1.0})
    with pytest.raises(InputError, match="above 0"):
        Normalisation.from_dict(scales.to_dict() | {"input_scale": float("nan")})


def test_probe_off_its_window_centre_is_refused(raw: RawData) -> None:
    probe = np.zeros((64, 64))
    probe[0, 0] = 1
    shifted = RawData(raw.xcoords, raw.ycoords, None, None, raw.diff3d, probe)
    with pytest.raises(InputError, match="centred"):
        Normalisation.from_groups(shifted, np.arange(40)[:, None], training_config())


def test_container_views_equal_the_reference(container: PtychoDataContainer, small40: Any) -> None:
    case = "gs2_K7_seed0"
    np.testing.assert_allclose(container.X[:1], small40[f"{case}/X_full_first3"], rtol=1e-5)
    np.testing.assert_allclose(container.coords_nominal, small40[f"{case}/container_coords_nominal"], atol=1e-5)
    np.testing.assert_allclose(container.global_offsets, small40[f"{case}/container_global_offsets"], atol=1e-12)
    np.testing.assert_allclose(container.local_offsets, small40[f"{case}/coords_relative"], atol=1e-12)
    assert container.norm_Y_I == pytest.approx(float(small40[f"{case}/container_norm_Y_I"]), rel=1e-5)
    assert container.coords_true.shape == (20, 1, 2, 4)
    assert container.Y.shape == container.X.shape == (20, 64, 64, 4)
    np.testing.assert_allclose(container.Y_I * np.exp(1j * container.Y_phi), container.Y, atol=1e-5)


def test_batch_gives_photons_and_relative_positions(container: PtychoDataContainer, raw: RawData) -> None:
    photons, relative = container.batch([3, 0])
    members = container.nn_indices[[3, 0]]
    assert photons.shape == (2, 4, 64, 64)
    assert photons.dtype == relative.dtype == np.float32
    np.testing.assert_allclose(photons, raw.patterns.intensity()[members] * container.normalisation.photon_scale)
    centres = raw.positions_px[members].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(relative, raw.positions_px[members] - centres, atol=1e-5)
    X = container.normalisation.input_scale * np.sqrt(np.moveaxis(photons, 1, -1))
    np.testing.assert_allclose(X, container.X[[3, 0]], rtol=1e-5)


def test_subset_keeps_the_normalisation(container: PtychoDataContainer) -> None:
    part = container.subset(np.array([5, 1]))
    assert len(part) == 2
    assert part.normalisation is container.normalisation
    np.testing.assert_array_equal(part.batch([1])[0], container.batch([1])[0])


def test_container_without_truth_and_its_file(shared_data: Any, tmp_path: Path) -> None:
    raw = load_data(shared_data("lines64_small40.npz"))
    raw.object_truth = None
    groups = np.arange(6)[:, None]
    scales = Normalisation.from_groups(raw, groups, training_config())
    container = PtychoDataContainer.from_groups(raw, groups, scales)
    assert container.Y.min() == container.Y.max() == 1
    container.to_npz(tmp_path / "container.npz")
    with np.load(tmp_path / "container.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["X"], container.X)
        assert "YY_full" not in stored
