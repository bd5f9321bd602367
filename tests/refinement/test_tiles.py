"""A scan in tiles: every pattern in one of them, one image whatever their number, no border to be seen in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import in_processes
from hypothesis import given
from hypothesis import strategies as st

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.refinement.tile_files import complete_sets, folder_of_tiles, read_tiles
from ptycho_ray.refinement.tiled_solver import check_tiles, refine_tile
from ptycho_ray.refinement.tiles import Neighbours, tiles_of
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan


@given(st.integers(1, 300), st.integers(1, 17), st.integers(0, 2**32 - 1))
def test_every_pattern_is_in_one_tile_and_tiles_are_equal(patterns: int, count: int, seed: int) -> None:
    positions = np.random.default_rng(seed).integers(0, 12, (patterns, 2)).astype(float)  # many of them equal
    tiles = tiles_of(positions, count)
    assert len(tiles) == count
    np.testing.assert_array_equal(np.sort(np.concatenate(tiles)), np.arange(patterns))
    assert max(len(rows) for rows in tiles) - min(len(rows) for rows in tiles) <= max(1, count.bit_length())


def test_four_tiles_of_a_raster_are_its_quarters() -> None:
    grid = np.stack(np.indices((8, 8)), axis=-1).reshape(-1, 2).astype(float)
    for rows in tiles_of(grid, 4):
        assert np.ptp(grid[rows], axis=0).tolist() == [3, 3]


@pytest.mark.parametrize("settings", [{"method": "dm"}, {"method": "accelerated"}, {"position_model": "affine"}])
def test_what_needs_the_whole_scan_is_refused_in_tiles(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="data"):
        check_tiles(RefinementConfig(**settings))


@pytest.fixture(scope="module")
def wide_scan() -> Any:
    """240 patterns of side 32 on a randomly displaced raster that is longer than wide, 1e5 photons each."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.indices((20, 12)), axis=-1).reshape(-1, 2) * 5.0
    positions = grid + 18 + rng.uniform(-1, 1, grid.shape)
    image = make_object("grf", (132, 92), rng, exponent=2.5)
    probe = make_probe("disc", 32, rng, photons=1e5, diameter_px=16, edge_px=2, defocus_m=2e-6)
    return simulate_scan(image, probe, positions, rng=rng)


def in_tiles(folder: Path, count: int, scan: Any, config: RefinementConfig, **how: Any) -> Any:
    in_processes(folder, count, _refine, scan, config, folder / "state.safetensors", how)
    return read_tiles(complete_sets(folder / "state.safetensors")[0])


def _refine(scan: Any, config: RefinementConfig, checkpoint: Path, how: dict[str, Any], parallel: Any) -> None:
    refine_tile(scan, config, parallel=parallel, checkpoint=checkpoint, **how)


def difference(image: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """Relative difference of two images of one scan where both are lit, after phase and phase ramp, and the pixels' rows."""
    rows, columns = np.indices(image.image.shape)
    inner = (slice(24, -24), slice(24, -24))
    assert image.image.shape == other.image.shape
    ours, theirs = image.image[inner].astype(complex), other.image[inner].astype(complex)
    design = np.stack([rows[inner].ravel(), columns[inner].ravel(), np.ones(ours.size)], axis=-1)
    for _ in range(3):
        ramp = np.linalg.lstsq(design, np.angle(ours * theirs.conj()).ravel(), rcond=None)[0]
        ours *= np.exp(-1j * design @ ramp).reshape(ours.shape)
    ours *= np.vdot(ours, theirs) / np.vdot(ours, ours)
    return np.abs(ours - theirs) / np.sqrt(np.mean(np.abs(theirs) ** 2)), rows[inner]


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_two_tiles_are_one_worker_within_noise_and_leave_no_seam(wide_scan, tmp_path):
    config = RefinementConfig(iterations=20)
    alone = refine(wide_scan, config).stitched
    again = refine(wide_scan, RefinementConfig(iterations=20, seed=1)).stitched
    state = in_tiles(tmp_path, 2, wide_scan, config)
    off, rows = difference(state.stitched(), alone)
    noise, _ = difference(again, alone)
    assert rms(off) < 1.5 * rms(noise)
    border = np.abs(rows - alone.image.shape[0] / 2) < 8
    assert rms(off[border]) < 1.3 * rms(off[~border])
    assert len(state.result().history) == 20
    assert state.result().history[-1].r_factor is not None


def test_tiles_have_one_probe_and_the_positions_of_all(wide_scan, tmp_path):
    config = RefinementConfig(iterations=2, position_start=0, probe_modes=2, background_start=0, intensity_start=0)
    state = in_tiles(tmp_path, 3, wide_scan, config)
    files = complete_sets(tmp_path / "state.safetensors")[0]
    probes = [read_tiles_probe(file) for file in files]
    for probe in probes[1:]:
        np.testing.assert_array_equal(probe, probes[0])
    moved = state.positions_px - wide_scan.positions_px
    assert 0 < np.abs(moved).max() < 2
    assert np.abs(moved.mean(axis=0)).max() < 0.02  # of the learnt ones it is zero
    assert state.background is not None


def test_patterns_held_out_in_one_tile_only_judge_for_all(wide_scan, tmp_path):
    held_out = tiles_of(wide_scan.positions_px, 2)[1][5:11]
    how = {"held_out": held_out, "probe": wide_scan.probe}
    state = in_tiles(tmp_path, 2, wide_scan, RefinementConfig(iterations=2, check_every=1), **how)
    for step in state.result().history:
        assert step.r_factor is not None
        assert 0 < step.r_factor < 1


def read_tiles_probe(file: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(file)["state/probe_spectrum"]


@pytest.mark.slow
def test_a_run_resumes_with_as_many_tiles_or_others(wide_scan, tmp_path):
    config = RefinementConfig(iterations=12, check_every=3)
    whole = in_tiles(tmp_path, 2, wide_scan, RefinementConfig(iterations=12, check_every=3))
    folder = tmp_path / "again"
    folder.mkdir()
    stop = {"on_progress": _stop_at_seven}
    with pytest.raises(InterruptedError):
        in_tiles(folder, 2, wide_scan, config, **stop)
    assert [path.name for path in folder_of_tiles(folder / "state.safetensors").iterdir()] == ["000006"]
    (folder / "rendezvous").unlink(missing_ok=True)
    resumed = in_tiles(folder, 2, wide_scan, config)
    lit = whole.light > 0.01 * whole.light.max()
    np.testing.assert_allclose(resumed.object[:, lit], whole.object[:, lit], atol=1e-4)
    (folder / "rendezvous").unlink(missing_ok=True)
    more = in_tiles(folder, 3, wide_scan, RefinementConfig(iterations=15, check_every=3))
    assert [item["iteration"] for item in more.header["history"]] == list(range(1, 16))
    assert more.header["history"][-1]["loss"] < 1.1 * resumed.header["history"][-1]["loss"]


def _stop_at_seven(progress: Any) -> None:
    if progress.iteration == 7:
        raise InterruptedError


def test_tiles_of_any_phase_become_one_image(tmp_path):
    rng = np.random.default_rng(1)
    grid = np.stack(np.indices((12, 12)), axis=-1).reshape(-1, 2) * 6.0
    truth = (rng.uniform(0.5, 1, (2, 100, 100)) * np.exp(1j * rng.uniform(-1, 1, (2, 100, 100)))).astype(np.complex64)
    turns = np.exp(1j * rng.uniform(-1.5, 1.5, (5, 2))).astype(np.complex64)
    parts = in_processes(tmp_path, 5, _combined, grid + 16, truth, turns)
    whole = np.zeros_like(truth)
    for (row, column), image in parts:
        whole[:, row : row + image.shape[1], column : column + image.shape[2]] = image
    ratio = (whole * truth.conj())[:, 1:98, 1:98]
    np.testing.assert_allclose(np.abs(ratio), np.abs(truth[:, 1:98, 1:98]) ** 2, rtol=1e-3)
    for slice_ratio in ratio:
        np.testing.assert_allclose(np.angle(slice_ratio * slice_ratio[0, 0].conj()), 0, atol=1e-3)


def _combined(positions: np.ndarray, truth: np.ndarray, turns: np.ndarray, parallel: Any) -> Any:
    """Every tile begins with the truth in a phase of its own for each slice; what all of them have in the end."""
    own = positions[tiles_of(positions, parallel.size)[parallel.rank]]
    geometry, tiles = Geometry(own, 32), Neighbours(parallel, torch.device("cpu"))
    tiles.meet(geometry)
    row, column = tiles.corner
    part = truth[:, row : row + geometry.height, column : column + geometry.width]
    image = torch.from_numpy(part * turns[parallel.rank][:, None, None])
    tiles.weigh(
        torch.rand(geometry.height, geometry.width, generator=torch.Generator().manual_seed(parallel.rank)) + 0.1
    )
    tiles.combine(image)
    parts: list[Any] = [None] * parallel.size
    torch.distributed.all_gather_object(parts, (tiles.corner, image.numpy()))
    return parts
