"""Tables of numbers in text files, with or without a header that names their columns and units.

Lines before the numbers may hold anything; the last of them that has as many words as the numbers have columns is the header.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import with_patterns
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.units import LENGTHS, PIXELS, factor_of

LARGEST_TABLE = 256 * 2**20
ENCODINGS = ("utf-8-sig", "utf-16", "latin-1")
_UNIT = re.compile(r"[\[(\{]\s*([^\])}]*)\s*[\])}]")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_MISSING = {"nan", "na", "n/a", "none", "null", "-", "", "missing"}


class TableFile:
    """A text file of numbers as one array ``table`` [lines, columns], with the names and units of its columns.

    ``names`` are lower case, without unit; ``units`` are as written, '' where there is none. Both are empty without a header.
    """

    kind = "table"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        if path.stat().st_size > min(max_bytes, LARGEST_TABLE):
            raise InputError(file=path, found=f"{path.stat().st_size} bytes of text", expected="a table of positions")
        table, header = _read(path)
        self.values = {"table": table}
        named = [_name_and_unit(word) for word in header]
        self.names: tuple[str, ...] = tuple(name for name, _ in named)
        self.units: tuple[str, ...] = tuple(unit for _, unit in named)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def keys(self) -> list[str]:
        return list(self.values)

    def read(self, *names: str) -> NDArray:
        return next(self.values[name] for name in names if name in self.values)

    def read_optional(self, *names: str) -> NDArray | None:
        return next((self.values[name] for name in names if name in self.values), None)

    def number(self, *names: str) -> float | None:
        return None

    def text(self, name: str) -> str | None:
        return None


def is_text(start: bytes) -> bool:
    """Whether a file begins like text."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            text = start.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding == "latin-1" or error.start < len(start) - 4:
                continue
            text = start[: error.start].decode(encoding)
        if text.strip() and all(character.isprintable() or character in "\t\r\n" for character in text):
            # Latin text is mostly ASCII; binary data seldom is.
            return sum(ord(character) < 128 for character in text) > 0.85 * len(text)
    return False


def _read(path: Path) -> tuple[NDArray[np.float64], list[str]]:
    text = _decoded(path)
    rows: list[list[float]] = []
    header: list[str] = []
    separator: str | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        bare = line.strip().lstrip("#%;").strip()
        if not bare or (rows and line.strip()[:1] in "#%"):
            continue
        if not rows:
            separator = _separator(bare)
        words = _words(bare, separator)
        values = _values(words, separator)
        if values is None:
            if rows:
                raise InputError(
                    file=path,
                    field=f"line {number + 1}",
                    found=repr(line[:40]),
                    expected="numbers",
                    hint=f"Put a # before it. {to_type(Path('SCAN'), f'--positions {path}')}",
                )
            units = len(words) == len(header) and all(_is_unit(word) for word in words)
            named = [f"{name} [{unit.strip('[](){} ')}]" for name, unit in zip(header, words, strict=False)]
            header = named if units else words
        elif line.strip()[:1] in "#%" and not rows:
            continue  # a number in a comment
        elif not rows and (plain := _plain(lines[number:], separator)) is not None:
            return plain, header if len(header) == plain.shape[1] else []
        else:
            rows.append(values)
    if not rows:
        raise not_numbers(path)
    if len({len(row) for row in rows}) > 1:
        raise InputError(
            file=path,
            found="lines of different lengths",
            expected="a table of numbers",
            hint=f"Put a # before those that are no positions. {to_type(Path('SCAN'), f'--positions {path}')}",
        )
    return np.array(rows), header if len(header) == len(rows[0]) else []


def _is_unit(word: str) -> bool:
    bare = word.strip("[](){} ")
    return factor_of(bare, LENGTHS) is not None or bare.lower() in (*PIXELS, "", "-", "#", "s", "1")


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings: tuple[str, ...] = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(file=path, found="bytes that are no text", expected="a table of numbers")


def _separator(line: str) -> str | None:
    """What separates the columns of a line: a tab, a semicolon, a comma, or white space (None), also between numbers with a
    decimal comma."""
    if len(line.split()) > 1 and all(_DECIMAL_COMMA.fullmatch(word) for word in line.split()):
        return None
    return next((mark for mark in ("\t", ";", ",") if mark in line), None)


def _words(line: str, separator: str | None) -> list[str]:
    words = line.split(separator) if separator else line.split()
    words = [word.strip().strip('"').strip("'").strip() for word in words]
    while separator and len(words) > 1 and not words[-1]:  # a separator at the end of the line
        words.pop()
    return words


def _plain(lines: list[str], separator: str | None) -> NDArray[np.float64] | None:
    """The values of lines of plain numbers, as nearly all tables are; None for others, which are read with more care."""
    try:
        values = np.loadtxt(lines, delimiter=separator, comments=None, ndmin=2)
    except ValueError:
        return None
    return None if np.isnan(values).all(axis=1).any() else values


def _values(words: list[str], separator: str | None) -> list[float] | None:
    values = []
    for word in words:
        if separator in (";", "\t") or (separator is None and _DECIMAL_COMMA.fullmatch(word)):
            word = word.replace(",", ".")
        if word.lower() in _MISSING:
            values.append(float("nan"))
            continue
        try:
            values.append(float(word))
        except ValueError:
            pieces = word.split()
            try:  # a comma between numbers that white space separates too
                values += [float(piece) for piece in pieces]
            except ValueError:
                return None
    return values if values and not np.isnan(values).all() else None


def _name_and_unit(word: str) -> tuple[str, str]:
    """'Y [um]', 'pos_y_um', 'y/um' and 'y um' as the name 'y' or 'pos_y' and the unit 'um'."""
    found = _UNIT.search(word)
    if found:
        return _UNIT.sub("", word).strip(" _").lower(), found[1].strip()
    for separator in ("/", " ", "_", "-", "."):
        name, mark, unit = word.rpartition(separator)
        known = factor_of(unit, LENGTHS) is not None or unit.lower() in PIXELS
        if mark and name and known and unit.lower() not in ("x", "y"):
            return name.strip(" _").lower(), unit
    return word.strip().lower(), ""


def not_numbers(path: Path) -> InputError:
    """The error for a text file without numbers: neither a zip archive nor HDF5, MATLAB or a table of numbers."""
    return InputError(
        file=path,
        found="a text file: neither a zip archive nor HDF5, MATLAB or a table of numbers",
        expected="a scan in a format that docs/formats.md lists",
        hint=f"The data that it belongs to may lie beside it. {with_patterns(path)}",
    )
