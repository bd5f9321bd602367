"""Every setting of the service, with its default. ``args`` of an application in a Serve configuration file are these."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ptycho_ray.config.types import NonNegativeInt, PositiveFloat, PositiveInt, settings

MIB = 2**20


@settings
class ServiceSettings:
    """Settings and limits of the service."""

    data_dir: Path
    """Folder for uploads, results and the job database; it must be the same for all replicas."""
    models: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Models by name: a bundle wts.h5.zip, its folder, or a folder with one sub-folder per version."""
    model_root: Path | None = None
    """A folder with models as NAME/VERSION/wts.h5.zip; models added later are found without a restart."""
    allowed_roots: tuple[Path, ...] = ()
    """Folders whose scans a request may name instead of uploading them."""
    database_url: str | None = None
    """SQLAlchemy URL of the job database; a SQLite file in data_dir by default."""
    require_token: bool = True
    """Require a bearer token from every caller. Set False only for a service that only this machine can reach."""

    max_body_bytes: PositiveInt = 4096 * MIB
    """Largest upload."""
    max_inflated_bytes: PositiveInt = 8192 * MIB
    """Maximum memory for the arrays of one scan."""
    max_stream_bytes: PositiveInt = 65536 * MIB
    """Largest scan that is streamed, on disk; one that becomes longer ends there."""
    max_memory_bytes: NonNegativeInt = 0
    """Memory for the scans of all jobs of a replica of the models; others wait. 0: half of what is free when it starts."""
    max_patterns: PositiveInt = 1_000_000
    """Maximum number of patterns of one scan or stream."""
    max_N: PositiveInt = 1024
    """Maximum side of a pattern."""
    max_canvas_pixels: PositiveInt = 64 * MIB
    """Maximum size of an image, in pixels; two distant positions could demand any size."""
    max_jobs: PositiveInt = 200
    """Maximum number of waiting or running jobs, of all callers; further ones get 503."""
    max_jobs_per_token: PositiveInt = 50
    """The same for one token; further ones get 429."""
    max_streams: PositiveInt = 8
    """Maximum number of open streams on one replica; further ones get 503."""
    requests_per_minute: PositiveInt = 1200
    """Requests per minute of one token (or address) to one replica of the ingress; further ones get 429."""
    body_timeout_s: PositiveFloat = 30.0
    """Longest silence within an upload before the connection is closed."""
    max_deadline_s: PositiveFloat = 86400.0
    """Maximum duration of a job, waiting included."""
    keep_s: PositiveFloat = 7 * 86400.0
    """Uploads and results are deleted this long after the end of their job."""
    keep_bytes: NonNegativeInt = 0
    """Space for the uploads and results of all jobs; with more the oldest that have ended are deleted earlier. 0: without
    limit."""
    min_free_bytes: NonNegativeInt = 256 * MIB
    """Uploads are refused (507) while data_dir has less space than this."""
    drain_s: PositiveFloat = 30.0
    """How long a replica that is shut down lets running work continue."""

    max_replicas: PositiveInt = 1
    """Replicas of the models, at most: jobs beyond those that they work on wait, those of the highest priority first."""
    accelerator: Literal["cpu", "cuda", "auto"] = "auto"
    """Device of the models."""
    job_workers: PositiveInt = 1
    """Workers of the service's Ray cluster that one job without a model may ask for. The cluster needs a processor (or GPU) for
    each of them beside those of the replicas, and all its machines need data_dir."""
    threads: NonNegativeInt = 0
    """Processor threads per replica of the models; 0 leaves it to torch."""
    batch_patterns: NonNegativeInt = 0
    """Maximum number of patterns, from any number of requests, in one forward pass; 0 means 32 on a CPU and 256 on a GPU."""

    @classmethod
    def from_args(cls, args: dict[str, Any]) -> ServiceSettings:
        """From the ``args`` of a Serve application; ConfigurationError names what is wrong."""
        return cls(**args)

    @property
    def database(self) -> str:
        """The URL of the job database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite'}"

    def job_folder(self, job_id: str) -> Path:
        """The folder of the upload and the results of a job."""
        return self.data_dir / "jobs" / job_id
