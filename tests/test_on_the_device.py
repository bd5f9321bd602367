"""Every hot loop on a pretended second device: nothing is left on the processor, and the host waits for nothing in a loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_scan
from second_device import SECOND, HostWaits, SecondDevice

from ptycho_ray.refinement.solver import Refinement, RefinementConfig

REFINEMENTS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("adam", "accelerated", "epie", "rpie", "lsqml", "dm")},
    "newton": {"position_start": 0, "probe_modes": 2},
    "gradient": {"position_start": 0, "position_method": "gradient"},
    "correlation": {"position_start": 0, "position_method": "cross_correlation", "method": "epie"},
    "affine": {"position_start": 0, "position_model": "affine", "method": "lsqml"},
    "variable probe": {"eigenmodes": 1, "eigenmode_start": 0, "intensity_start": 0, "background_start": 0},
    "smooth background": {"background_start": 0, "background_model": "smooth", "method": "rpie"},
    "slices": {"slices": 2, "slice_distance_px2": 3.0, "total_variation": 1e-3, "phase_smoothing": 0.1},
    "smooth prior": {"method": "accelerated", "smoothing_length_px": 1.0},
    "near field": {"near_field_px2": 30.0, "probe_guess": "mean_pattern"},
}
#: How often the host may look at the device in a whole iteration, whatever the number of its batches.
LOOKS_AN_ITERATION = 8


@pytest.fixture
def second() -> Iterator[SecondDevice]:
    with SecondDevice() as device:
        yield device


@pytest.fixture(scope="module")
def scan() -> Any:
    return make_scan(48)


@pytest.mark.parametrize(
    "planted",
    [
        lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x[x > 1],
        lambda x: x.nonzero(), lambda x: bool((x > 1).any()), lambda x: torch.linalg.inv(x.new_ones(1, 1)),
        lambda x: torch.as_tensor(np.ones(3), device=SECOND),
    ],
)  # fmt: skip
def test_a_planted_wait_is_caught(second: SecondDevice, planted: Any) -> None:
    there = torch.arange(3.0).to(SECOND)
    planted(there)
    with second.hot(), pytest.raises(HostWaits):
        planted(there)


def test_a_planted_tensor_of_the_processor_is_caught(second: SecondDevice) -> None:
    there = torch.arange(3.0).to(SECOND)
    assert (there + torch.tensor(1.0)).tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


def an_iteration(second: SecondDevice, scan: Any, settings: dict[str, Any], batch_size: int) -> tuple[Any, ...]:
    """What the host looked at in the second iteration and in its loop over batches, and the refined object."""
    config = RefinementConfig(**{"iterations": 3, "held_out_fraction": 0.0, "batch_size": batch_size} | settings)
    refinement = Refinement(scan, config, device=SECOND)
    steps, in_loop = iter(refinement), []
    next(steps)
    iterate = refinement.method.iterate

    def watched(run: Any) -> float:
        with second.looking() as looks:
            loss = iterate(run)
        in_loop.extend(looks)
        return loss

    refinement.method.iterate = watched  # type: ignore[method-assign]
    with second.looking() as looks:
        next(steps)
    return looks, in_loop, refinement.run.state.object.cpu()


@pytest.mark.parametrize("name", REFINEMENTS)
def test_a_refinement_stays_on_the_device(second: SecondDevice, scan: Any, name: str) -> None:
    few, few_in_loop, image = an_iteration(second, scan, REFINEMENTS[name], 24)
    many, many_in_loop, _ = an_iteration(second, scan, REFINEMENTS[name], 6)
    assert len(few) == len(many) <= LOOKS_AN_ITERATION, many
    assert len(few_in_loop) == len(many_in_loop) <= 1, many_in_loop
    config = RefinementConfig(**{"iterations": 3, "held_out_fraction": 0.0, "batch_size": 24} | REFINEMENTS[name])
    here = Refinement(scan, config)
    steps = iter(here)
    next(steps), next(steps)
    torch.testing.assert_close(here.run.state.object, image, rtol=1e-3, atol=1e-3)
