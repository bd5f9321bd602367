"""Many scans on a command line: files, folders, patterns and lists of names; and a folder of its own for the result of each."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ptycho_ray.errors import MissingFileError
from ptycho_ray.files import require_file

SCAN_SUFFIXES = (".npz", ".h5", ".hdf5", ".cxi")


def scans_in(folder: Path, field: str) -> list[Path]:
    """The scans in a folder. MissingFileError if it holds none."""
    inside = sorted(file for file in folder.glob("*") if file.suffix.lower() in SCAN_SUFFIXES)
    if not inside:
        raise MissingFileError(file=folder, field=field, found="no scan", expected=" ".join(SCAN_SUFFIXES))
    return inside


def scans_of(words: Sequence[str], base: Path | None = None) -> list[Path]:
    """The scans that words stand for, each once and in their order.

    Args:
        words: files, which need not exist; folders, for the scans in them; patterns ('/data/*.h5', '**' for folders at any
            depth); and '@list.txt', a file with one of these in a line, relative to its own folder. Empty lines and lines
            that begin with # are passed over.
        base: the folder of relative names; the working folder if None.

    Raises:
        MissingFileError: a folder without scans, a pattern without matches, no such list.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word) if base is None else base / word
        if word.startswith("@"):
            listed = require_file(word[1:] if base is None else base / word[1:], "list of scans")
            lines = (line.strip() for line in listed.read_text(encoding="utf-8").splitlines())
            inside = scans_of([line for line in lines if line and not line.startswith("#")], listed.parent)
        elif path.is_dir():
            inside = scans_in(path, "scans")
        elif path.exists() or not glob.has_magic(word):
            inside = [path]
        else:
            inside = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
            if not inside:
                raise MissingFileError(file=word, field="scans", found="no match", expected="a pattern of files")
        found |= dict.fromkeys(inside)
    return list(found)


def folder_names(scans: Sequence[Path]) -> list[str]:
    """A name for the result of each scan that does not depend on the order of the scans: that of its file, where several
    have it with the folder before it, and where that is not enough with its whole path."""
    names = [scan.stem or scan.name for scan in scans]
    for longer in (
        lambda scan: f"{scan.absolute().parent.name}-{scan.stem}",
        lambda scan: f"{scan.stem}-{hashlib.sha256(str(scan.absolute()).encode()).hexdigest()[:8]}",
    ):
        often = Counter(names)
        names = [longer(scan) if often[name] > 1 else name for scan, name in zip(scans, names, strict=True)]
    return names
