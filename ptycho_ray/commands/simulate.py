"""``ptycho-ray simulate``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from ptycho_ray.commands.common import SCAN, Common, Result
from ptycho_ray.commands.output import WritingOptions, check_suffix, file_to_write
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(Common, WritingOptions):
    """Simulate a scan with photon noise, and store the true object in the file. With --electrons it is one of an electron
    microscope, with settings of its own: ptycho-ray simulate --electrons --help.

    Example: ptycho-ray simulate scan.npz --object siemens --n-patterns 400 --photons 1e6
    """

    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """File to write: .npz, or .h5 for HDF5."""
    electrons: bool = False
    """Simulate electrons in a thick specimen instead of photons."""


@dataclass(kw_only=True)
class ElectronOptions(Common, WritingOptions):
    """Simulate a scan of an electron microscope by multislice, and store the true object in the file. The true slices, probe
    and positions lie beside it in NAME_truth.npz.

    Example: ptycho-ray simulate --electrons scan.npz --thickness-angstrom 200 --dose-e-per-A2 1e5
    """

    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """File to write: .npz, or .h5 for HDF5; with --as-measured .emd, .h5 or .npy."""
    electrons: bool = True
    """Simulate electrons."""
    as_measured: bool = False
    """Write what a microscope does: frames and the step of the raster, no probe, no positions, no voltage."""


def run(words: Sequence[str]) -> Result:
    if "--electrons" in words:
        return _electrons(words)
    from ptycho_ray.data.inspection import describe_scan
    from ptycho_ray.simulation import SimulationSpec, simulate

    typed = parse(
        Options, words, prog="ptycho-ray simulate", config_class=SimulationSpec, with_model=False, with_execution=False
    )
    file_to_write(typed.options.output, overwrite=typed.options.overwrite)
    check_suffix(typed.options.output)
    scan = simulate(SimulationSpec(**typed.settings))
    scan.to_file(typed.options.output)
    return {"file": typed.options.output, **describe_scan(scan)}


def _electrons(words: Sequence[str]) -> Result:
    from ptycho_ray.data.electron_facts import electron_facts
    from ptycho_ray.data.inspection import describe_scan
    from ptycho_ray.display.progress import BatchProgress
    from ptycho_ray.simulation.electrons import ElectronSpec, simulate_electrons, write_as_measured

    typed = parse(
        ElectronOptions,
        _raster_in_two(words),
        prog="ptycho-ray simulate --electrons",
        config_class=ElectronSpec,
        with_model=False,
        with_execution=False,
    )
    output = typed.options.output
    truth = output.with_name(f"{output.stem}_truth.npz")
    for path in (output, truth):
        file_to_write(path, overwrite=typed.options.overwrite)
    if not typed.options.as_measured:
        check_suffix(output)
    simulated = simulate_electrons(ElectronSpec(**typed.settings), BatchProgress("simulating", "arrangement of atoms"))
    if typed.options.as_measured:
        write_as_measured(simulated, output)
    else:
        simulated.scan.to_file(output)
    simulated.write_truth(truth)
    facts = describe_scan(simulated.scan) | {"microscope": electron_facts(simulated.scan)}
    return {"file": output, "true_slices": truth, "as_measured": typed.options.as_measured, **facts}


def _raster_in_two(words: Sequence[str]) -> list[str]:
    """``words`` with --raster 16x16, as the options of reading have it, written as --raster 16x16."""
    apart = [part for word in words for part in (word.split("=") if word.startswith("--raster=") else [word])]
    pairs = pairwise(["", *apart])
    return [part for before, word in pairs for part in (word.split("x") if before == "--raster" else [word])]


def as_text(result: Mapping[str, Any]) -> Iterable[str]:
    """For people: of electrons the lines that 'info' shows."""
    from ptycho_ray.commands.cli import as_text as entries
    from ptycho_ray.data.scan_words import microscope_lines

    if "microscope" not in result:
        return entries(result)
    left_out = "frames and the step of the raster; what follows is for you to say" if result["as_measured"] else None
    lines = {
        "file": f"{result['file']}, {result['patterns']} patterns of {result['N']} x {result['N']} px",
        "true slices": f"{result['true_slices']}, with the true probe and positions",
        "in the file": left_out,
        **microscope_lines(result),
    }
    return [f"{name:14}{text}" for name, text in lines.items() if text is not None]
