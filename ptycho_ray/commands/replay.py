"""``ptycho-ray replay``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ptycho_ray.commands.common import SCAN, ReadingOptions, Result, tell
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.live.replaying import PLACES, Compression, Protocol


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions):
    """Send a scan as its detector would during the measurement, for trying ptycho-ray watch.

    Example: ptycho-ray replay scan.h5 --as dectris2 --rate 1000 --positions-bind tcp://127.0.0.1:5556
    In another terminal: ptycho-ray watch tcp://127.0.0.1:31001 --positions-from tcp://127.0.0.1:5556
    """

    scan: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan, in any format."""
    protocol: Annotated[Protocol, tyro.conf.arg(name="as")] = "dectris2"
    """dectris2 (CBOR), dectris1 (JSON headers), zmq (ptycho_ray's own messages), pva (PVAccess), hdf5 (a growing file)."""
    bind: str | None = None
    """Address to bind, name of the channel, or file; by default one on this machine."""
    positions_bind: str | None = None
    """Address at which the positions are sent beside the frames; without it only zmq and hdf5 have them, with the frames."""
    rate: float | None = None
    """Frames a second; without it as fast as they are taken."""
    n_frames: int | None = None
    """Number of frames, the scan over and over; by default once."""
    compression: Compression = "bslz4"
    """Of the frames of a DECTRIS stream."""
    lose: tuple[int, ...] = ()
    """Numbers of frames that are not sent."""
    shuffle: int = 1
    """Frames change places within groups of so many."""
    arm_s: float = 0.0
    """Time between the header and the first frame."""
    wait_s: float = 60.0
    """How long a receiver is waited for."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray replay").options
    from ptycho_ray.data import load_data
    from ptycho_ray.errors import ConfigurationError
    from ptycho_ray.live.replaying import Replay, counts_of, replay
    from ptycho_ray.live.wire_events import Begin

    for name in ("rate", "n_frames", "shuffle"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ConfigurationError(field=name, found=value, expected="a number above 0")
    place = options.bind or PLACES[options.protocol]
    if options.protocol == "hdf5":
        file_to_write(Path(place), overwrite=options.overwrite, inputs=options.inputs(options.scan), field="bind")
    scan = load_data(options.scan, reading=options.reading)
    what = Replay(
        patterns=counts_of(scan.patterns.intensity(np.arange(len(scan)))),
        positions=scan.positions_px,
        begin=Begin(
            energy_eV=scan.energy_eV,
            detector_distance_m=scan.detector_distance_m,
            detector_pixel_m=scan.detector_pixel_m,
        ),
        frames=options.n_frames,
        rate=options.rate,
        compression=options.compression,
        lost=frozenset(options.lose),
        shuffled=options.shuffle,
        wait_s=options.wait_s,
        arm_s=options.arm_s,
    )
    sent = replay(what, options.protocol, place, options.positions_bind, tell)
    return {"place": place, "type": str(what.patterns.dtype), **sent}
