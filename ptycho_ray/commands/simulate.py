"""``ptycho-ray simulate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import SCAN, Common, Result
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(Common, WritingOptions):
    """Simulate a scan with photon noise, and store the true object in the file.

    Example: ptycho-ray simulate scan.npz --object siemens --n-patterns 400 --photons 1e6
    """

    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """File to write: .npz, or .h5 for HDF5."""


def run(words: Sequence[str]) -> Result:
    from ptycho_ray.data.inspection import describe_scan
    from ptycho_ray.simulation import SimulationSpec, simulate

    typed = parse(
        Options, words, prog="ptycho-ray simulate", config_class=SimulationSpec, with_model=False, with_execution=False
    )
    file_to_write(typed.options.output, overwrite=typed.options.overwrite)
    scan = simulate(SimulationSpec(**typed.settings))
    scan.to_file(typed.options.output)
    return {"file": typed.options.output, **describe_scan(scan)}
