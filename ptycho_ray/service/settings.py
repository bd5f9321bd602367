"""Every setting of the service, with its default. ``args`` of an application in a Serve configuration file are these."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ptycho_ray.config.types import NonNegativeInt, PositiveFloat, PositiveInt, settings

MIB = 2**20


@settings
class ServiceSettings:
    """What the service may do and how much of it."""

    data_dir: Path
    """Folder for uploads, results and the record of jobs; all replicas must see the same one."""
    models: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Models by name: a bundle wts.h5.zip, its folder, or a folder with one sub-folder a version."""
    model_root: Path | None = None
    """A folder NAME/VERSION/wts.h5.zip; what is put there later is found."""
    allowed_roots: tuple[Path, ...] = ()
    """Folders from which a request may name a scan instead of sending it."""
    database_url: str | None = None
    """SQLAlchemy URL of the record of jobs; a SQLite file in data_dir by default."""
    require_token: bool = True
    """Ask every caller for a bearer token. False is for a service that only this machine can reach."""

    max_body_bytes: PositiveInt = 4096 * MIB
    """Largest upload."""
    max_inflated_bytes: PositiveInt = 8192 * MIB
    """Most memory that the arrays of one scan may take."""
    max_patterns: PositiveInt = 1_000_000
    """Most patterns of one scan or stream."""
    max_N: PositiveInt = 1024
    """Largest side of a pattern."""
    max_canvas_pixels: PositiveInt = 64 * MIB
    """Largest image, in pixels; two distant positions can ask for any size."""
    max_jobs: PositiveInt = 200
    """Jobs waiting or running, of all callers; one more gets 503."""
    max_jobs_per_token: PositiveInt = 50
    """The same of one token; one more gets 429."""
    max_streams: PositiveInt = 8
    """Open streams on one replica; one more gets 503."""
    requests_per_minute: PositiveInt = 1200
    """Requests of one token (or address) that one replica of the ingress answers; one more gets 429."""
    body_timeout_s: PositiveFloat = 30.0
    """Longest silence inside an upload before the connection is given up."""
    sync_max_bytes: NonNegativeInt = 256 * MIB
    """Scans above this size become a job even if the caller did not ask for one."""
    sync_wait_s: PositiveFloat = 60.0
    """After so long a caller who waits for the answer gets the job instead."""
    max_deadline_s: PositiveFloat = 86400.0
    """No job may take longer, waiting included."""
    keep_s: PositiveFloat = 7 * 86400.0
    """Uploads and results are deleted so long after the end of their job."""
    min_free_bytes: NonNegativeInt = 256 * MIB
    """Uploads are refused (507) while data_dir has less space than this."""
    drain_s: PositiveFloat = 30.0
    """A replica that is shut down lets the work it has begun go on for so long."""

    accelerator: Literal["cpu", "cuda", "auto"] = "auto"
    """Where models are computed."""
    threads: NonNegativeInt = 0
    """Processor threads of one replica of the models; 0 leaves it to torch."""
    batch_patterns: NonNegativeInt = 0
    """Most patterns, of any number of requests, in one forward pass; 0 is 32 on a processor and 256 on a GPU."""

    @classmethod
    def from_args(cls, args: dict[str, Any]) -> ServiceSettings:
        """From the ``args`` of a Serve application; ConfigurationError names what is wrong."""
        return cls(**args)

    @property
    def database(self) -> str:
        """The URL of the record of jobs."""
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite'}"

    def job_folder(self, job_id: str) -> Path:
        """Where the upload and the results of a job lie."""
        return self.data_dir / "jobs" / job_id
