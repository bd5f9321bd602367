"""Metrics for Prometheus: of this replica's requests, and of all jobs in the database."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

JOB_STATES = "ptycho_ray_jobs"


class Metrics:
    """Counters of one replica, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = Counter("ptycho_ray_requests", "Answered requests.", labels, registry=self.registry)
        self.seconds = Histogram(
            "ptycho_ray_request_seconds",
            "Response time.",
            ["route"],
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.jobs = Gauge(
            JOB_STATES, "Reconstructions in the database, of all replicas.", ["state"], registry=self.registry
        )
        self.streams = Gauge("ptycho_ray_streams", "Open streams of this replica.", registry=self.registry)
        self.frames = Counter("ptycho_ray_stream_frames", "Frames taken from streams.", registry=self.registry)

    def request(self, scope: MutableMapping[str, Any], status: int | None, seconds: float) -> None:
        """Count a request under its route, not its path, so that the number of series stays bounded."""
        route = getattr(scope.get("route"), "path", "other")
        self.requests.labels(scope.get("method", "WS"), route, str(status or 0)).inc()
        if scope["type"] == "http":
            self.seconds.labels(route).observe(seconds)

    def text(self, jobs: dict[str, int]) -> bytes:
        """The exposition, with the jobs counted now."""
        for state, count in jobs.items():
            self.jobs.labels(state).set(count)
        return generate_latest(self.registry)
