"""``ptycho-ray watch``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ptycho_ray.commands.common import FILE, Common, Result
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config import extensions
from ptycho_ray.config.command_line import parse

if TYPE_CHECKING:
    from ptycho_ray.client.frame_sources import Frames


@dataclass(kw_only=True)
class Options(Common, WritingOptions):
    """Send a scan to a reconstruction service while it is being measured, and save the image.

    SOURCE is a folder to which files (NPZ, HDF5) are added, a growing HDF5 file (SWMR), or a ZeroMQ address such as
    tcp://detector:5555. The service's page shows the image as it grows. See docs/live.md.

    Example: ptycho-ray watch /data/scan_0042 --url http://127.0.0.1:8000 --n-patterns 600 --output image.npz
    The token, if the service requires one, is taken from the environment variable PTYCHO_RAY_TOKEN.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder, a file or an address."""
    url: str = "http://127.0.0.1:8000"
    """Address of the service."""
    model: str | None = None
    """NAME or NAME@VERSION; may be omitted if the service has only one."""
    output: Annotated[Path, FILE] = Path("reconstruction.npz")
    """File to write; .npz, .h5 (Ptychodus) or .png."""
    patterns: str = "patterns"
    """Name of the patterns in the files: an array [k, N, N]."""
    positions: str = "positions"
    """Name of the positions: an array [k, 2] of rows and columns, or the names of two [k], row first: y,x."""
    pixel_size_m: float | None = None
    """Object pixel size, for positions in metres; without it they are in object pixels."""
    domain: Literal["intensity", "amplitude"] = "intensity"
    """Quantity stored in the patterns."""
    n_patterns: int | None = None
    """Number of patterns after which the scan is complete."""
    idle_s: float = 30.0
    """Time without new patterns after which the scan is complete."""
    subscribe: bool = False
    """ZeroMQ: subscribe (SUB), leaving the messages to other receivers as well, instead of pulling (PULL)."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray watch").options
    from ptycho_ray.client import Client
    from ptycho_ray.client.frame_sources import wire_type
    from ptycho_ray.commands.submit import FORMATS
    from ptycho_ray.display.progress import BatchProgress
    from ptycho_ray.errors import InputError

    form = FORMATS.get(options.output.suffix.lower())
    if form is None:
        raise InputError(
            field="output", found=options.output.name, expected=f"a name that ends in {', '.join(FORMATS)}"
        )
    file_to_write(options.output, overwrite=options.overwrite, inputs=[Path(options.source)])
    frames = _frames(options)
    first = next(frames, None)
    if first is None:
        raise InputError(
            file=options.source, field="source", found="nothing", expected=f"patterns in {options.idle_s} s"
        )
    bar = BatchProgress("taking", "pattern")
    start: dict[str, Any] = {
        "model": options.model,
        "dtype": wire_type(first.patterns, options.source),
        "domain": options.domain,
        "pixel_size_m": options.pixel_size_m,
    }
    with Client(options.url, os.environ.get("PTYCHO_RAY_TOKEN")) as client:
        with client.stream(N=first.patterns.shape[-1], **start) as stream:
            for batch in itertools.chain([first], frames):
                stream.push(batch.positions / (options.pixel_size_m or 1.0), batch.patterns)
                if options.n_patterns is not None:
                    bar(stream.inner.pushed, options.n_patterns)
        job = stream.job
        assert job is not None
        image = client.result(job["id"], form).save(options.output)
    return {"image": image, "job": job["id"], "model": job["model"], "patterns": stream.inner.pushed}


def _frames(options: Options) -> Iterator[Frames]:
    """The source that ``word`` names."""
    from ptycho_ray.client.frame_sources import Ending, Names, folder_frames, growing_frames, zmq_frames

    ending, names = Ending(options.n_patterns, options.idle_s), Names(options.patterns, options.positions)
    scheme = options.source.partition("://")[0]
    if scheme in extensions.names("source"):
        return iter(extensions.find("source", scheme)(options.source, ending))
    if "://" in options.source:
        return zmq_frames(options.source, ending, kind="subscribe" if options.subscribe else "pull")
    path = Path(options.source)
    return folder_frames(path, names, ending) if path.is_dir() else growing_frames(path, names, ending)
