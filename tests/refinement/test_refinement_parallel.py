"""Processes that refine together: the same image, probe and positions as one."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import in_processes

from ptycho_ray.refinement.solver import RefinementConfig, refine


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "adam", "position_start": 1, "intensity_start": 1},
        {"method": "accelerated", "position_start": 1, "position_method": "cross_correlation"},
        {"method": "rpie", "batching": "compact"},
        {"method": "lsqml", "background_start": 0},
        {"method": "dm"},
    ],
    ids=lambda settings: settings["method"],
)
def test_two_processes_refine_as_one(small_scan, tmp_path, settings):
    """In double precision, where the order of a sum makes no visible difference."""
    config = RefinementConfig(iterations=3, precision="double", **settings)
    alone = refine(small_scan, config)
    together = in_processes(tmp_path, 2, refine, small_scan, config)
    lit = alone.stitched.covered()
    np.testing.assert_allclose(together.stitched.image[lit], alone.stitched.image[lit], atol=1e-4)
    np.testing.assert_allclose(together.positions_px, alone.positions_px, atol=1e-4)
    np.testing.assert_allclose(together.probe, alone.probe, atol=1e-4 * np.abs(alone.probe).max())
    np.testing.assert_allclose([p.loss for p in together.history], [p.loss for p in alone.history], rtol=1e-6)
