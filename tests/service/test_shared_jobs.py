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


def test_a_job_whose_workers_have_no_room_says_so_and_ends_when_it_is_cancelled_or_late(
    deploy: Callable[..., Any], scan_file: Path, one_ray: Any
) -> None:
    class Holder:
        def here(self) -> bool:
            return True

    service = deploy("waiting", job_workers=8)
    holder = one_ray.remote(num_cpus=2)(Holder).remote()
    assert one_ray.get(holder.here.remote())
    with Client(service.url) as client:
        with pytest.raises(ServiceError, match="too small") as refused:
            client.reconstruct(scan_file, workers=8)
        assert (refused.value.document["field"], refused.value.document["found"]) == ("workers", 8)
        unwanted = client.submit(scan_file, refinement=FEW, workers=2)
        wait_for(lambda: client.job(unwanted["id"])["stage"] == "waiting for workers", "the job says what it waits for")
        assert "waiting for 2 CPUs; 0." in client.job(unwanted["id"])["facts"]["waiting"]
        client.cancel(unwanted["id"])
        late = client.submit(scan_file, refinement=FEW, workers=2, deadline_s=20)  # its turn is after that one
        with pytest.raises(ServiceError, match="before the workers had room") as refused:
            client.wait(late["id"])
        assert "of 3 CPU free" in refused.value.document["found"]
        assert "fewer workers" in refused.value.document["hint"]
        assert client.reconstruct(scan_file, refinement=FEW)  # the replica is free for others
        one_ray.kill(holder)
        assert client.reconstruct(scan_file, refinement=FEW, workers=2)
