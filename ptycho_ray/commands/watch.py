"""``ptycho-ray watch``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from ptycho_ray.commands.automatic import SECTION, AutomaticOptions, section_of
from ptycho_ray.commands.common import FILE, Common, Result, tell
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.files import require_file
from ptycho_ray.live.growing_files import wire_type
from ptycho_ray.live.object_pixels import object_pixel_m, pixels_per_unit
from ptycho_ray.refinement.config import RefinementConfig

if TYPE_CHECKING:
    from ptycho_ray.client import Client, Stream
    from ptycho_ray.live.measurement import Source
    from ptycho_ray.live.wire_events import Begin


@dataclass(kw_only=True)
class Options(Common, WritingOptions, AutomaticOptions):
    """Send a scan to a reconstruction service while it is being measured, and save the image. Without --model it is
    reconstructed automatically at the end.

    SOURCE is a ZeroMQ address (the DECTRIS stream of either version, or ptycho_ray's own messages), a channel of PVAccess
    (pva://NAME), the address of a run in Tiled (http://...), a folder to which files (NPZ, HDF5) are added, or a growing HDF5
    file (SWMR). The service's page shows the image as it grows. See docs/live.md.

    Example: ptycho-ray watch tcp://detector:31001 --positions-from tcp://motors:5556 --crop 128 --output image.npz
    The token, if the service requires one, is taken from the environment variable PTYCHO_RAY_TOKEN.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """An address, a folder or a file."""
    url: str = "http://127.0.0.1:8000"
    """Address of the service."""
    model: str | None = None
    """NAME or NAME@VERSION of a trained model of the service, which then reconstructs the scan at the end."""
    preview_model: str | None = None
    """The model that draws the image while it grows; by default --model, or the first that takes these patterns."""
    refine: int | None = None
    """With a model: refine its image with this many iterations of the solver."""
    n_subsample: int | None = None
    """At the end use only this many patterns, drawn at random."""
    output: Annotated[Path, FILE] = Path("reconstruction.npz")
    """File to write; .npz, .h5 (Ptychodus) or .png."""
    patterns: str = "patterns"
    """Name of the patterns in the files or in Tiled: an array [k, N, N]."""
    positions: str = "positions"
    """Name of the positions: an array [k, 2] of rows and columns, or the names of two [k], row first: y,x."""
    positions_from: str | None = None
    """Where the positions are, if not with the frames: an address, or a file (NPZ, HDF5, table); joined by frame number."""
    units: str | None = None
    """Unit of the positions: px, m, um, nm ...; by default m with --pixel-size-m and px without."""
    pixel_size_m: float | None = None
    """Object pixel size; by default from the energy, distance and detector pixel that the source announces."""
    probe: Annotated[Path | None, FILE] = None
    """File with the probe of this scan: a scan, or the image of an earlier one. By default it is found from the patterns."""
    domain: Literal["intensity", "amplitude"] = "intensity"
    """Quantity stored in the patterns."""
    crop: int | None = None
    """Side of the square about the beam that is cut out of each frame."""
    centre: tuple[float, float] | None = None
    """Row and column of the direct beam; by default what the source announces, or the middle of the frame."""
    n_patterns: int | None = None
    """Number of patterns after which the scan is complete."""
    idle_s: float = 30.0
    """Time without new patterns after which the scan is complete; at an address it counts from the first one."""
    first_s: float | None = None
    """How long an address is listened to until the first frame comes; without it for ever."""
    subscribe: bool = False
    """ZeroMQ: subscribe (SUB), leaving the messages to other receivers as well, instead of pulling (PULL)."""
    channel: str | None = None
    """The threshold of the detector that is taken; by default its first."""
    buffer_mib: int = 512
    """Memory for frames that wait; when it is full, frames are dropped, and their numbers are told."""

    def to_source(self) -> Source:
        """The source that these options name."""
        from ptycho_ray.live.growing_files import Ending, Names
        from ptycho_ray.live.measurement import Source

        return Source(
            frames=self.source,
            positions=self.positions_from,
            names=Names(self.patterns, self.positions),
            ending=Ending(self.n_patterns, self.idle_s),
            first_s=self.first_s,
            crop=self.crop,
            centre_px=self.centre,
            subscribe=self.subscribe,
            channel=self.channel,
            buffer_bytes=self.buffer_mib * 2**20,
        )

    def choices(self, solver: dict[str, Any]) -> dict[str, Any]:
        """What a request would say about the reconstruction at the end."""
        told = {
            "n_subsample": self.n_subsample,
            "refinement_iterations": self.refine,
            "seed": self.seed,
            "budget_s": self.budget,
            "uncertainty": self.uncertainty or None,
            SECTION: solver or None,
        }
        return {name: value for name, value in told.items() if value is not None}


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray watch", sections={SECTION: RefinementConfig})
    options, (solver, _) = typed.options, section_of(typed)
    from ptycho_ray.client import Client
    from ptycho_ray.commands.submit import FORMATS
    from ptycho_ray.errors import InputError

    form = FORMATS.get(options.output.suffix.lower())
    if form is None:
        raise InputError(
            field="output", found=options.output.name, expected=f"a name that ends in {', '.join(FORMATS)}"
        )
    file_to_write(options.output, overwrite=options.overwrite, inputs=[Path(options.source)])
    if options.probe is not None:
        require_file(options.probe, "probe")
    with Client(options.url, os.environ.get("PTYCHO_RAY_TOKEN")) as client:
        sending = Sending(options, client, solver)
        stream = sending.all_of_it()
        job = stream.job
        assert job is not None
        image = client.result(job["id"], form).save(options.output)
    judged = {name: job["facts"][name] for name in ("verdict", "trusted") if name in job.get("facts", {})}
    frames = sending.measurement.tally.facts()
    return {"image": image, "job": job["id"], "model": job["model"], **judged} | {
        "patterns": stream.inner.acknowledged,
        "frames": frames,
    }


class Sending:
    """The pieces of a measurement on their way into a stream."""

    def __init__(self, options: Options, client: Client, solver: dict[str, Any]) -> None:
        from ptycho_ray.live.measurement import Measurement

        self.options, self.client, self.solver = options, client, solver
        self.measurement = Measurement(options.to_source())
        self.begin: Begin | None = None
        self.stream: Stream | None = None
        self.dtype = ""
        self.per_unit = 1.0  # object pixels in a unit of the positions
        self._open = contextlib.ExitStack()

    def all_of_it(self) -> Stream:
        """Send everything, and wait for the image."""
        from ptycho_ray.client import StreamFull
        from ptycho_ray.display.progress import BatchProgress
        from ptycho_ray.errors import InputError

        bar, options = BatchProgress("taking", "pattern"), self.options
        tell(f"waiting for frames from {options.source}")
        with self._open:
            for piece in self.measurement.pieces(self._announced):
                stream = self.stream or self._start(piece.patterns.shape[-1], piece.patterns.dtype)
                if not np.can_cast(wire_type(piece.patterns.dtype, options.source), self.dtype):
                    raise InputError(
                        file=options.source,
                        field="patterns",
                        found=f"type {piece.patterns.dtype}",
                        expected=f"{self.dtype}, as was announced or came first",
                    )
                try:
                    stream.push(piece.positions * self.per_unit, piece.patterns)
                except StreamFull as error:
                    tell(f"{error} {stream.inner.acknowledged} patterns are reconstructed")
                    break
                if (expected := self.measurement.tally.expected) is not None:
                    bar(min(stream.inner.pushed, expected), expected)
            for line in self.measurement.tally.lines():
                tell(line)
            if self.measurement.ended:
                tell(f"the source did not end the scan: {self.measurement.ended}")
            if self.stream is None or not self.stream.inner.pushed:
                raise InputError(
                    file=options.source,
                    field="source",
                    found="nothing",
                    expected="patterns with positions",
                    hint="--idle-s waits longer for the first",
                )
        return self.stream

    def _announced(self, begin: Begin) -> None:
        """Begin the stream before the first frame, where the source says enough: the network is then loaded in time."""
        self.begin = begin
        side = self.options.crop or (begin.shape[0] if begin.shape else None)
        if side is not None and begin.dtype is not None and self.stream is None:
            self._start(side, np.dtype(begin.dtype))

    def _start(self, side: int, dtype: np.dtype) -> Stream:
        options = self.options
        self.dtype = wire_type(dtype, options.source)
        said = self.begin
        pixel_m = options.pixel_size_m or object_pixel_m(said, side)
        unit = options.units or ("px" if options.pixel_size_m is None else "m")
        self.per_unit = pixels_per_unit(unit, pixel_m, options.source)
        start: dict[str, Any] = {
            "model": options.model,
            "preview_model": options.preview_model,
            "choices": options.choices(self.solver),
            "probe": None if options.probe is None else probe_in(options.probe, side),
            "dtype": self.dtype,
            "domain": options.domain,
            "pixel_size_m": pixel_m,
            "energy_eV": None if said is None else said.energy_eV,
            "detector_distance_m": None if said is None else said.detector_distance_m,
        }
        self.stream = self._open.enter_context(self.client.stream(N=side, **start))
        return self.stream


def probe_in(path: Path, side: int) -> np.ndarray:
    """The probe modes [P, N, N] of a scan, an image or an array in a file; InputError if there are none of this side."""
    from ptycho_ray.data.opening import opened
    from ptycho_ray.errors import InputError

    if path.suffix == ".npy":
        found = np.load(path, allow_pickle=False)
    else:
        with opened(path, 2**30) as content:
            found = content.read_optional("probe", "probeGuess")
    shape = None if found is None else found.shape
    if found is None or found.ndim not in (2, 3) or found.shape[-2:] != (side, side):
        raise InputError(
            file=path, field="probe", found=f"shape {shape}", expected=f"probe or probeGuess of shape ({side}, {side})"
        )
    return np.asarray(found, dtype=np.complex64)
