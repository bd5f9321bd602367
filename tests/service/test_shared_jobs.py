"""A job whose solution several workers of the service's cluster share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_for

from ptycho_ray.client import Client, ServiceError

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

pytestmark = pytest.mark.slow

FEW = {"iterations": 6}


def test_workers_share_a_job_and_one_that_is_cancelled_ends(deploy: Callable[..., Any], scan_file: Path) -> None:
    service = deploy("shared", job_workers=2)
    with Client(service.url) as client:
        alone = client.reconstruct(scan_file, refinement=FEW)
        together = client.reconstruct(scan_file, refinement=FEW, workers=2)
        figures = [client.job(image.job_id)["facts"]["figures"] for image in (alone, together)]
        assert figures[1] == pytest.approx(figures[0], rel=1e-3)
        left = {path.name for path in (service.data_dir / "jobs" / together.job_id).iterdir()}
        assert not [name for name in left if name.startswith(("solution", "ray"))]
        with pytest.raises(ServiceError, match="so many workers"):
            client.reconstruct(scan_file, workers=3)
        endless = client.submit(scan_file, refinement={"iterations": 10_000}, workers=2)
        wait_for(lambda: client.job(endless["id"])["stage"] == "solving", "the workers solve it")
        client.cancel(endless["id"])
        after = client.reconstruct(
            scan_file, refinement=FEW
        )  # the replica does one such job at a time: that one has ended
        assert client.job(after.job_id)["state"] == "done"
