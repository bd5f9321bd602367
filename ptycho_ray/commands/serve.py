"""``ptycho-ray serve``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import FOLDER, Common, Result
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(Common):
    """Run the reconstruction service on this machine: a web page and an HTTP interface. Scans are reconstructed
    automatically, or by a trained model: the pretrained one that comes with the program, if no other is given.

    Example: ptycho-ray serve model lines64=other/model
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ()
    """Trained models: PATH or NAME=PATH of a bundle, its folder, or a folder with one sub-folder per version; 'pretrained' is
    the one that comes with the program."""
    model_root: Annotated[Path | None, FOLDER] = None
    """A folder with models as NAME/VERSION/wts.h5.zip; models added later are found without a restart."""
    data_dir: Annotated[Path, FOLDER] = Path("service")
    """Folder for uploads, results, the job database and tokens."""
    allow: Annotated[tuple[Path, ...], FOLDER] = ()
    """Folders whose scans a request may name instead of uploading them."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but a local one requires tokens (ptycho-ray token add)."""
    port: int = 8000
    """Port to listen on."""
    require_token: bool = False
    """Require tokens on this machine, too."""
    max_replicas: int = 1
    """Maximum number of processes that hold models; one is added when the others are busy."""
    job_workers: int = 1
    """Most workers among which a job without a model may ask to be shared (submit --workers N), each with a processor or GPU of
    the cluster."""
    threads: int = 0
    """Processor threads per process; 0 leaves it to torch."""
    accelerator: str = "auto"
    """cpu, cuda or auto."""
    max_body_mib: int = 4096
    """Largest upload in MiB."""
    keep_days: float = 7.0
    """Days for which uploads and results are kept after the end of their job."""
    keep_gib: float | None = None
    """GiB for the uploads and results of all jobs: with more the oldest that have ended are deleted earlier."""
    database_url: str | None = None
    """SQLAlchemy URL of the job database; a SQLite file in --data-dir if not given."""
    haproxy: bool = True
    """Use HAProxy, which is part of Ray Serve, for connections; Ray's own proxy keeps uploads in memory."""
    address: str | None = None
    """A running Ray cluster (host:port, or auto); by default a new one."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray serve").options
    from ptycho_ray.config.training import PRETRAINED
    from ptycho_ray.service.quotas import DAY_S
    from ptycho_ray.service.settings import MIB, ServiceSettings
    from ptycho_ray.service.start import LOOPBACK, check_before_start, named_models, run_service

    words_of_models = options.models or (() if options.model_root else (PRETRAINED,))
    settings = ServiceSettings(
        data_dir=options.data_dir.resolve(),
        models=named_models(words_of_models),
        model_root=options.model_root and options.model_root.resolve(),
        allowed_roots=tuple(folder.resolve() for folder in options.allow),
        database_url=options.database_url,
        require_token=options.require_token or options.host not in LOOPBACK,
        job_workers=options.job_workers,
        threads=options.threads,
        accelerator=options.accelerator,  # type: ignore[arg-type] # checked by the class
        max_body_bytes=options.max_body_mib * MIB,
        keep_s=options.keep_days * DAY_S,
        keep_bytes=int((options.keep_gib or 0) * 2**30),
    )
    models = check_before_start(settings, options.host)
    run_service(
        settings,
        host=options.host,
        port=options.port,
        max_replicas=options.max_replicas,
        address=options.address,
        haproxy=options.haproxy,
    )
    return {"models": models, "stopped": True}
