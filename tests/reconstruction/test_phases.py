"""Bringing patches of unknown phase to one phase."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_ray.data.patches import cut_patches
from ptycho_ray.reconstruction.phases import WINDOW_SIDE, PhaseWindow, synchronised_phases


@pytest.fixture
def scene(rng):
    rows, columns = np.indices((120, 120))
    truth = (1 + 0.3 * np.sin(rows / 9)) * np.exp(0.5j * np.cos((rows + columns) / 11))
    positions = rng.uniform(12, 108, (300, 2))
    weight = np.exp(-(((np.indices((24, 24)) - 12) ** 2).sum(axis=0)) / 50).astype(np.float32)
    return cut_patches(truth, positions, 24).astype(np.complex64), positions, weight


def phases_of(patches: np.ndarray, positions: np.ndarray, weight: np.ndarray) -> np.ndarray:
    window = PhaseWindow.of(weight)
    return synchronised_phases(window.cut(patches), positions, window)


#: Positions are rounded to pixels of the binned windows, which costs about a hundredth of a radian here.
ROUNDING = 0.015


def spread(phases: np.ndarray) -> float:
    """Standard deviation of angles about their mean direction."""
    return float(np.angle(phases * np.exp(-1j * np.angle(phases.sum()))).std())


@pytest.mark.parametrize("width", [0.1, 1.0, np.pi])
def test_random_phases_are_found(scene, rng, width):
    patches, positions, weight = scene
    turned = np.exp(1j * rng.uniform(-width, width, len(patches))).astype(np.complex64)
    found = phases_of(patches * turned[:, None, None], positions, weight)
    assert np.allclose(np.abs(found), 1, atol=1e-5)
    assert spread(found * turned) < ROUNDING


def test_agreeing_patches_are_left_alone(scene):
    patches, positions, weight = scene
    assert spread(phases_of(patches, positions, weight)) < ROUNDING


def test_two_separate_scans_are_each_made_consistent(scene, rng):
    patches, positions, weight = scene
    both, apart = np.concatenate([patches, patches]), np.concatenate([positions, positions + 1000])
    turned = np.exp(1j * rng.uniform(-3, 3, len(both))).astype(np.complex64)
    found = phases_of(both * turned[:, None, None], apart, weight)
    assert spread((found * turned)[:300]) < ROUNDING
    assert spread((found * turned)[300:]) < ROUNDING


def test_a_single_patch_and_patches_without_overlap(scene):
    patches, _, weight = scene
    assert phases_of(patches[:1], np.zeros((1, 2)), weight) == pytest.approx([1.0])
    far = phases_of(patches[:3], np.array([[0.0, 0.0], [0.0, 500.0], [500.0, 0.0]]), weight)
    assert np.allclose(np.abs(far), 1)


def test_noise_is_shared_out(scene, rng):
    """With noisy patches the phases stay near the truth over the whole scan: errors do not add up along a path."""
    patches, positions, weight = scene
    noise = rng.standard_normal((2, *patches.shape)) * 0.3
    noisy = (patches + noise[0] + 1j * noise[1]).astype(np.complex64)
    assert spread(phases_of(noisy, positions, weight)) < 0.04


def test_the_window_is_where_the_light_is_and_small(scene):
    _, _, weight = scene
    window = PhaseWindow.of(weight)
    assert window.crop < 24
    assert window.crop // window.binning <= WINDOW_SIDE
    wide = PhaseWindow.of(np.ones((100, 100), np.float32))
    assert wide.cut(np.ones((2, 100, 100), np.complex64)).shape[1] <= WINDOW_SIDE
    assert wide.cut(np.ones((2, 100, 100), np.complex64)).sum().real == pytest.approx(2 * wide.crop**2)
