"""Metrics for Prometheus: of this replica's requests, and of what all replicas share. All their names are here."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Of this replica: requests by route and status, their duration, streams, and attempts at jobs that were lost.
REQUESTS, SECONDS = "ptycho_ray_requests", "ptycho_ray_request_seconds"
STREAMS, FRAMES, LOST = "ptycho_ray_streams", "ptycho_ray_stream_frames", "ptycho_ray_attempts_lost"
#: Of all replicas together.
JOBS, JOBS_LIMIT, WAITING = "ptycho_ray_jobs", "ptycho_ray_jobs_limit", "ptycho_ray_oldest_waiting_seconds"
DISK_FREE, DISK_RESERVE = "ptycho_ray_disk_free_bytes", "ptycho_ray_disk_reserve_bytes"
DRAINING = "ptycho_ray_draining"

SHARED = {
    JOBS_LIMIT: "Waiting and running reconstructions, at most (max_jobs).",
    WAITING: "How long the oldest reconstruction has waited that nobody works on.",
    DISK_FREE: "Free space of the data folder.",
    DISK_RESERVE: "Free space below which uploads are refused (min_free_bytes).",
    DRAINING: "1 while no new work is accepted.",
}


class Metrics:
    """Counters of one replica, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = Counter(REQUESTS, "Answered requests.", labels, registry=self.registry)
        self.seconds = Histogram(
            SECONDS,
            "Response time.",
            ["route"],
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.jobs = Gauge(JOBS, "Reconstructions in the database, of all replicas.", ["state"], registry=self.registry)
        self.streams = Gauge(STREAMS, "Open streams of this replica.", registry=self.registry)
        self.frames = Counter(FRAMES, "Frames taken from streams.", registry=self.registry)
        self.lost = Counter(LOST, "Attempts at reconstructions whose replica was lost.", registry=self.registry)
        self.shared = {name: Gauge(name, says, registry=self.registry) for name, says in SHARED.items()}

    def request(self, scope: MutableMapping[str, Any], status: int | None, seconds: float) -> None:
        """Count a request under its route, not its path, so that the number of series stays bounded."""
        route = getattr(scope.get("route"), "path", "other")
        self.requests.labels(scope.get("method", "WS"), route, str(status or 0)).inc()
        if scope["type"] == "http":
            self.seconds.labels(route).observe(seconds)

    def text(self, jobs: Mapping[str, int], shared: Mapping[str, float]) -> bytes:
        """The exposition, with the jobs by state and the values of ``SHARED`` as they are now."""
        for state, count in jobs.items():
            self.jobs.labels(state).set(count)
        for name, value in shared.items():
            self.shared[name].set(value)
        return generate_latest(self.registry)
