"""A scan on a regular grid: what repeats with it belongs to the probe."""

from __future__ import annotations

import numpy as np
import torch

from ptycho_ray.data import RawData
from ptycho_ray.refinement.raster import give_to_probe, periodic_part, raster_step_px
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan


def grid(step: float, jitter: float = 0.0) -> np.ndarray:
    places = np.arange(8) * step + 17.0
    positions = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)
    return positions + np.random.default_rng(1).uniform(-jitter, jitter, positions.shape)


def on_a_grid() -> RawData:
    rng = np.random.default_rng(2)
    return simulate_scan(
        make_object("lines", (70, 70), rng), make_probe("disc", 32, rng, photons=1e6), grid(5.0), rng=rng
    )


def test_only_a_grid_of_whole_steps_is_one() -> None:
    assert raster_step_px(grid(5.0)) == (5, 5)
    assert raster_step_px(grid(5.0) * [1, 2]) == (5, 10)
    assert raster_step_px(grid(5.0) + 0.4) == (5, 5), "a scan may lie anywhere"
    assert raster_step_px(grid(5.3)) is None
    assert raster_step_px(grid(5.0, jitter=0.3)) is None
    assert raster_step_px(grid(5.0)[:3]) is None


def test_what_goes_to_the_probe_changes_no_pattern_and_leaves_the_object_without_period() -> None:
    refinement = Refinement(on_a_grid(), RefinementConfig(iterations=2))
    run = refinement.run
    rows = torch.arange(20)
    rng = np.random.default_rng(5)
    cell = torch.as_tensor(1 + 0.1 * rng.normal(size=(5, 5)) + 0.1j * rng.normal(size=(5, 5)))
    height, width = run.state.object.shape[1:]
    periodic = cell.repeat(height // 5 + 1, width // 5 + 1)[:height, :width].to(run.state.object)
    run.state.object.mul_(periodic)
    before = run.kernel.forward(run.state, rows).intensity.clone()
    lit = torch.ones(height, width, dtype=torch.bool)
    assert float((periodic_part(run.state.object[0], lit, (5, 5)) - 1).abs().square().mean().sqrt()) > 0.1
    give_to_probe(run, (5, 5))
    torch.testing.assert_close(run.kernel.forward(run.state, rows).intensity, before, rtol=1e-3, atol=1e-2)
    light = run.illumination()
    lit = light > 0.1 * light[light > 0].median()
    assert float((periodic_part(run.state.object[0], lit, (5, 5)) - 1).abs().square().mean().sqrt()) < 0.01


def test_a_wrong_probe_leaves_no_pattern_of_the_period_in_the_image() -> None:
    scan = on_a_grid()
    wide = np.roll(scan.probe, 1, axis=-1) + 0.3 * np.roll(scan.probe, 3, axis=-2)
    refinement = Refinement(scan, RefinementConfig(iterations=15), probe=wide)
    for _ in refinement:
        pass
    light = refinement.run.illumination()
    factor = periodic_part(refinement.run.state.object[0], light > 0.1 * light[light > 0].median(), (5, 5))
    assert float((factor - 1).abs().square().mean().sqrt()) < 0.01
