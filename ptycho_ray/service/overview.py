"""What an operator looks at: the queue, the replicas, how much was done lately, and what failed."""

from __future__ import annotations

import asyncio
import shutil
import statistics
from typing import Any

from fastapi import APIRouter

from ptycho_ray import __version__
from ptycho_ray.service.dependencies import Admin, Here
from ptycho_ray.service.jobs import DONE, FAILED, Job
from ptycho_ray.service.schemas import format_time, problems

router = APIRouter(tags=["operations"])
#: Newest jobs that are counted, failures that are shown, and the spans of time that are told apart, in seconds.
LOOKED_AT, SHOWN = 1000, 10
SPANS = {"hour": 3600.0, "day": 86400.0}


@router.get("/v1/overview", responses=problems())
async def overview(service: Here, caller: Admin) -> dict[str, Any]:
    """Queue, replicas, throughput of the last hour and day, the newest failures; over the newest thousand jobs."""
    found = await asyncio.to_thread(service.jobs.recent, None, LOOKED_AT)
    now = service.jobs.clock()
    failures = [job for job in found if job.state == FAILED and job.problem is not None][:SHOWN]
    return {
        "version": __version__,
        "counts": await asyncio.to_thread(service.jobs.counts),
        "queue": [_waiting(job, now) for job in reversed(found) if job.active],
        "replicas": await service.replicas.states(),
        "open_streams": service.open_streams,
        "free_bytes": shutil.disk_usage(service.settings.data_dir).free,
        "throughput": {name: throughput(found, now - span) for name, span in SPANS.items()},
        "failures": [
            {"id": job.id, "owner": job.owner, "source": job.source_name, "finished": format_time(job.finished),
             "detail": (job.problem or {}).get("detail", "")}
            for job in failures
        ],
    }  # fmt: skip


def throughput(jobs: list[Job], since: float) -> dict[str, Any]:
    """Of the jobs that ended after ``since``: how many, their patterns, the medians of waiting and working in seconds."""
    ended = [job for job in jobs if (job.finished or 0.0) >= since]
    done = [job for job in ended if job.state == DONE and job.started is not None and job.finished is not None]
    waits = [job.started - job.created for job in done if job.started is not None]
    works = [job.finished - job.started for job in done if job.started is not None and job.finished is not None]
    return {
        "done": len(done),
        "failed": sum(job.state == FAILED for job in ended),
        "patterns": sum(int((job.facts or {}).get("patterns") or 0) for job in done),
        "median_wait_s": round(statistics.median(waits), 2) if waits else None,
        "median_work_s": round(statistics.median(works), 2) if works else None,
    }


def _waiting(job: Job, now: float) -> dict[str, Any]:
    left = job.seconds_left(now)
    return {
        "id": job.id,
        "owner": job.owner,
        "source": job.source_name,
        "way": job.model.rpartition("@")[0],
        "state": job.state,
        "stage": job.stage,
        "progress": round(job.progress, 3),
        "age_s": round(now - job.created, 1),
        "eta_s": None if left is None else round(left, 1),
    }
