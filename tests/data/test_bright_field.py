"""The bright-field disc of a mean pattern: found to a fraction of a pixel, whatever lies in it or around it; else nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_ray.data.bright_field import bright_field_disc, mean_pattern
from ptycho_ray.data.patterns import ArrayFrames


def disc(side: int, row: float, column: float, radius: float, edge: float = 1.0) -> NDArray[np.float64]:
    """A disc of brightness 1 with an edge ``edge`` pixels wide, over scattered light that falls off."""
    y, x = np.indices((side, side))
    away = np.hypot(y - row, x - column)
    return np.clip((radius - away) / edge + 0.5, 0, 1) + 0.02 * np.exp(-4 * away / side)


@settings(max_examples=30, deadline=None)
@given(
    row=st.floats(24, 40),
    column=st.floats(24, 40),
    radius=st.floats(4, 20),
    edge=st.floats(1, 3),
)
def test_a_disc_is_found_to_a_fraction_of_a_pixel(row: float, column: float, radius: float, edge: float) -> None:
    found = bright_field_disc(disc(64, row, column, radius, edge))
    assert found is not None
    assert found.centre_px == pytest.approx((row, column), abs=0.1)
    assert found.radius_px == pytest.approx(radius, abs=0.15 * edge + 0.05)


ODD = ["poisson", "structure", "gap", "masked gap", "stop", "dark middle", "crystal", "saturated", "cut off"]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(("side", "row", "column", "radius"), [(64, 27.3, 36.8, 10.4), (128, 64.0, 61.0, 28.7)])
def test_what_lies_in_a_disc_does_not_move_it(kind: str, side: int, row: float, column: float, radius: float) -> None:
    rng = np.random.default_rng(0)
    light, bad = disc(side, row, column, radius), np.zeros((side, side), bool)
    y, x = np.indices(light.shape)
    away = np.hypot(y - row, x - column)
    if kind == "poisson":
        light = rng.poisson(10 * light).astype(float)
    elif kind == "structure":  # of a defocused shadow image
        light = light * (1 + 0.5 * np.sin(y / 2.3) * np.cos(x / 1.7 + 1))
    elif kind in ("gap", "masked gap"):
        light[:, int(column) - 1 : int(column) + 2] = 0
        bad[:, int(column) - 1 : int(column) + 2] = kind == "masked gap"
    elif kind == "stop":
        light[away < radius / 3] = 0
    elif kind == "dark middle":
        light = light * np.where(away < radius / 2, 0.3, 1)
    elif kind == "crystal":  # six neighbours overlap it
        turns = np.arange(6) * np.pi / 3
        for turn in turns:
            light = light + 0.25 * disc(
                side, row + 1.3 * radius * np.sin(turn), column + 1.3 * radius * np.cos(turn), radius
            )
    elif kind == "saturated":
        light = np.minimum(light, 0.7)
    else:  # the disc hangs over the edge of the detector
        light = light[int(row - 0.7 * radius) :]
        bad, row = bad[int(row - 0.7 * radius) :], row - int(row - 0.7 * radius)
    found = bright_field_disc(light, bad if bad.any() else None)
    assert found is not None
    assert found.radius_px == pytest.approx(radius, rel=0.03)
    assert found.centre_px == pytest.approx((row, column), abs=0.4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from([16, 24, 48]), n=st.integers(1, 5), dose=st.floats(0.1, 20))
def test_noise_holds_no_disc(seed: int, side: int, n: int, dose: float) -> None:
    rng = np.random.default_rng(seed)
    assert bright_field_disc(rng.poisson(dose, (n, side, side)).mean(axis=0)) is None
    assert bright_field_disc(rng.uniform(0, dose, (n, side, side)).mean(axis=0)) is None


def test_light_without_an_edge_is_no_disc() -> None:
    y, x = np.indices((128, 128)) - 64
    assert bright_field_disc(np.exp(-(y**2 + x**2) / 800.0)) is None
    assert bright_field_disc(np.ones((64, 64))) is None
    assert bright_field_disc(np.zeros((64, 64))) is None
    assert bright_field_disc(np.eye(8)) is None


def test_sparse_counts_are_summed_over_many_frames() -> None:
    """Two hundredths of an electron a pixel and frame: 64 frames hold one each, all of them thirty."""
    rng = np.random.default_rng(0)
    light = disc(32, 15.5, 17.2, 7.3)
    frames = rng.poisson(0.02 * light, (1500, 32, 32)).astype(np.uint8)
    mean, bad = mean_pattern(ArrayFrames(frames))
    assert not bad.any()
    np.testing.assert_allclose(mean, frames.mean(axis=0))
    found = bright_field_disc(mean)
    assert found is not None
    assert found.radius_px == pytest.approx(7.3, abs=0.25)
    bright = rng.poisson(1000 * light, (1500, 32, 32)).astype(np.uint16)
    bright[64:] = 0  # never read: frames spread over the scan would be
    read: list[int] = []

    class Counted(ArrayFrames):
        def read(self, indices: NDArray[np.int64]) -> NDArray:
            read.extend(indices.tolist())
            return rng.poisson(1000 * light, (len(indices), 32, 32)).astype(np.uint16)

    mean_pattern(Counted(bright))
    assert len(read) == 64
    assert max(read) > 1400


def test_marks_and_dead_pixels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    frames = rng.poisson(50 * disc(64, 31, 33, 15.4), (20, 64, 64)).astype(np.uint32)
    frames[:, 30, 30] = 2**32 - 1
    frames[:, :, 40:43] = 0
    mean, bad = mean_pattern(ArrayFrames(frames))
    assert bad[30, 30]
    assert bad[25:35, 40:43].all()
    found = bright_field_disc(mean, bad)
    assert found is not None
    assert found.radius_px == pytest.approx(15.4, abs=0.15)
