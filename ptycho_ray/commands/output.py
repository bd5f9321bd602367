"""Where a command may write: nothing is overwritten that was not asked for, and what cannot be written is said before the
work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptycho_ray.errors import ConfigurationError, InputError

RESULTS = ("wts.h5.zip", "reconstruction.npz", "result.json", "comparison.json")
"""Files by which a folder is known to hold a result."""
WRITTEN = (*RESULTS, "refined_scan.npz", "positions.npz", "patches.npz", "history.json")
"""Files of a result that a command can read, too."""
MOST_FOLDERS = 10_000
LEAST_FREE_BYTES = 8 * 2**20
"""A disk with less room than this is full."""
#: Set by Ray in the program that `ray job submit` starts.
RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(kw_only=True)
class WritingOptions:
    """Options of commands that write."""

    overwrite: bool = False
    """Replace a file, or the results in a folder, that exists already."""


def file_to_write(
    path: Path,
    *,
    overwrite: bool,
    inputs: Sequence[Path | None] = (),
    field: str = "output",
    least_bytes: int = LEAST_FREE_BYTES,
) -> Path:
    """``path``, if it can be written and nothing is lost by it. InputError if it exists, unless ``overwrite``, if it is a
    folder or one of the ``inputs``, or if its folder cannot be written to or has no room for ``least_bytes``."""
    if path.is_dir():
        raise InputError(file=path, field=field, found="a folder", expected="the name of a file")
    keep_inputs(path, inputs, field)
    if path.exists() and not overwrite:
        raise InputError(
            file=path,
            field=field,
            found="a file that exists already",
            expected="a new name",
            hint="--overwrite replaces it",
        )
    check_writable(path.parent, field, least_bytes)
    return path


def check_suffix(path: Path, otherwise: str = "") -> None:
    """InputError if no format of a scan is written under such a name."""
    from ptycho_ray.data.formats import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        found, expected = f"the suffix {path.suffix!r}", f"one of {', '.join(SUFFIXES)}{otherwise}"
        raise InputError(file=path, field="output", found=found, expected=expected)


def folder_to_write(
    folder: Path,
    *,
    given: bool,
    overwrite: bool,
    resume: bool = False,
    inputs: Sequence[Path | None] = (),
    field: str = "output_dir",
    results: Sequence[str] = RESULTS,
) -> Path:
    """The folder for the results: ``folder``, or if it was not ``given`` and holds some already the next one with a number.
    With ``resume`` it is the one that was written last.

    InputError if it holds another result (one of the files ``results``), unless ``overwrite`` or ``resume``, if one of the
    ``inputs`` would be replaced, if it cannot be written to, or if it would be lost with a job.
    """
    refuse_relative_in_job(folder, field)
    if not given and not overwrite:
        numbered = [folder, *(folder.with_name(f"{folder.name}_{number}") for number in range(2, MOST_FOLDERS))]
        free = next(number for number, name in enumerate(numbered) if not _held(name, results))
        folder = numbered[max(0, free - 1)] if resume and not numbered[free].is_dir() else numbered[free]
    for name in WRITTEN:
        keep_inputs(folder / name, inputs, field)
    held = _held(folder, results)
    if held and not (overwrite or resume):
        raise InputError(
            file=folder,
            field=field,
            found=f"a folder that holds another result ({', '.join(held)})",
            expected="a new folder",
            hint="--overwrite replaces it",
        )
    check_writable(folder, field)
    return folder


def keep_inputs(path: Path | None, inputs: Sequence[Path | None], field: str) -> None:
    """InputError if ``path`` is one of the files that are read, under whatever name, or lies in a folder that is."""
    if path is None or not path.exists():
        return
    for other in inputs:
        if other is None or not other.exists():
            continue
        if other.samefile(path) or (other.is_dir() and path.resolve().is_relative_to(other.resolve())):
            raise InputError(
                file=path,
                field=field,
                found="a file that is read",
                expected="another name: nothing that is read is replaced, by --overwrite neither",
            )


def refuse_relative_in_job(folder: Path, field: str = "output_dir") -> None:
    """ConfigurationError if a job of ``ray job submit`` would write into the copy of a folder that Ray deletes."""
    if RAY_JOB_VARIABLE in os.environ and not folder.is_absolute():
        raise ConfigurationError(
            "the working folder of a Ray job is a copy that is thrown away",
            field=field,
            found=folder,
            expected="an absolute path that all nodes share",
        )


def _held(folder: Path, results: Sequence[str]) -> list[str]:
    return [name for name in results if (folder / name).exists()]


def about_as_large_as(path: Path) -> int:
    """Bytes that a copy of a scan takes at least, in a format that may pack it better."""
    return max(LEAST_FREE_BYTES, path.stat().st_size // 4) if path.is_file() else LEAST_FREE_BYTES


def check_writable(folder: Path, field: str, least_bytes: int = LEAST_FREE_BYTES) -> None:
    """InputError if a folder can neither be written to nor be made, or has no room for ``least_bytes``."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(file=folder, field=field, found="a file", expected="a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            file=folder, field=field, found=f"no right to write to {there}", expected="a folder to write to"
        )
    if (free := shutil.disk_usage(there).free) < least_bytes:
        raise InputError(
            file=folder,
            field=field,
            found=f"{free / 2**20:.3g} MiB free on this disk",
            expected=f"at least {least_bytes / 2**20:.3g} MiB",
            hint="make room, or name another folder",
        )
