"""Where a command may write: nothing is overwritten that was not asked for, and what cannot be written is said before the
work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptycho_ray.errors import ConfigurationError, InputError

RESULTS = ("wts.h5.zip", "reconstruction.npz", "result.json", "comparison.json")
"""Files by which a folder is known to hold a result."""
MOST_FOLDERS = 10_000
#: Set by Ray in the program that `ray job submit` starts.
RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(kw_only=True)
class WritingOptions:
    """Options of commands that write."""

    overwrite: bool = False
    """Replace a file, or the results in a folder, that exists already."""


def file_to_write(path: Path, *, overwrite: bool, inputs: Sequence[Path | None] = (), field: str = "output") -> Path:
    """``path``, if it can be written and nothing is lost by it. InputError if it exists, unless ``overwrite``, if it is a
    folder, or if its folder cannot be written to."""
    if path.is_dir():
        raise InputError(file=path, field=field, found="a folder", expected="the name of a file")
    if path.exists() and not overwrite:
        same = any(other is not None and other.exists() and other.samefile(path) for other in inputs)
        found = "the file that is read" if same else "a file that exists already"
        raise InputError(file=path, field=field, found=found, expected="a new name", hint="--overwrite replaces it")
    _check_writable(path.parent, field)
    return path


def folder_to_write(folder: Path, *, given: bool, overwrite: bool, resume: bool = False) -> Path:
    """The folder for the results: ``folder``, or if it was not ``given`` and holds some already the next one with a number.
    With ``resume`` it is the one that was written last.

    InputError if it holds another result, unless ``overwrite`` or ``resume``, or cannot be written to.
    """
    if not given and not overwrite:
        numbered = [folder, *(folder.with_name(f"{folder.name}_{number}") for number in range(2, MOST_FOLDERS))]
        free = next(number for number, name in enumerate(numbered) if not _results(name))
        folder = numbered[max(0, free - 1)] if resume and not numbered[free].is_dir() else numbered[free]
    held = _results(folder)
    if held and not (overwrite or resume):
        raise InputError(
            file=folder,
            field="output_dir",
            found=f"a folder that holds another result ({', '.join(held)})",
            expected="a new folder",
            hint="--overwrite replaces it",
        )
    _check_writable(folder, "output_dir")
    return folder


def refuse_relative_in_job(folder: Path) -> None:
    """ConfigurationError if a job of ``ray job submit`` would write into the copy of a folder that Ray deletes."""
    if RAY_JOB_VARIABLE in os.environ and not folder.is_absolute():
        raise ConfigurationError(
            "the working folder of a Ray job is a copy that is thrown away",
            field="output_dir",
            found=folder,
            expected="an absolute path that all nodes share",
        )


def _results(folder: Path) -> list[str]:
    return [name for name in RESULTS if (folder / name).exists()]


def _check_writable(folder: Path, field: str) -> None:
    """InputError if a folder can neither be written to nor be made."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(file=folder, field=field, found="a file", expected="a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            file=folder, field=field, found=f"no right to write to {there}", expected="a folder to write to"
        )
