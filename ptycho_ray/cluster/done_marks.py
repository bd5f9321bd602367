"""The mark that a scan of a batch leaves in its folder: of what content, with which settings it was done, or only begun."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_ray.files import jsonable, sha256_of, write_json

MARK = "done.json"
#: Files of a line; they lie beside the mark, wherever the folder has been moved.
BESIDE = ("image", "refined_scan", "report")


@dataclass(frozen=True)
class Mark:
    """``files`` are name, size and time of the scan's file, or of those in its folder, as they were when the scan was begun;
    ``content`` is their SHA-256. The line is empty for a scan that has only begun.
    """

    files: list[list[Any]]
    content: str
    settings: str
    line: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Mark | None:
        """The mark in a folder; None if there is none that can be read."""
        try:
            mark = cls(**json.loads((folder / MARK).read_text(encoding="utf-8")))
            beside = {name: str(folder / Path(mark.line[name]).name) for name in BESIDE if name in mark.line}
            return mark.with_line(mark.line | beside)
        except (OSError, ValueError, TypeError):
            return None

    def stands_for(self, scan: Path, settings: str) -> bool:
        """Whether the scan is done, as far as size and time of its file tell."""
        return self._has_result_of(settings) and self.files == files_of(scan)

    def same_content(self, scan: Path, settings: str) -> bool:
        """Whether the scan is done, by its content; all of its file is read."""
        return self._has_result_of(settings) and self.content == sha256_of(scan)

    def _has_result_of(self, settings: str) -> bool:
        image = self.line.get("image")
        return bool(self.line) and self.settings == settings and (image is None or Path(image).exists())

    def with_line(self, line: Mapping[str, Any]) -> Mark:
        """The mark of the scan when it is done."""
        return dataclasses.replace(self, line=jsonable(line))

    def write(self, folder: Path) -> None:
        write_json(folder / MARK, dataclasses.asdict(self))


def mark_of(scan: Path, settings: str, line: Mapping[str, Any]) -> Mark:
    """The mark of a scan as it lies there now."""
    return Mark(files_of(scan), sha256_of(scan), settings, jsonable(line))


def files_of(scan: Path) -> list[list[Any]]:
    """Name, size and time of the scan's file, or of those in its folder; empty if it is not there."""
    if not scan.exists():
        return []
    files = sorted(scan.iterdir()) if scan.is_dir() else [scan]
    return [[file.name, (facts := file.stat()).st_size, facts.st_mtime_ns] for file in files if file.is_file()]


def settings_print(settings: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """A word that changes with what a result depends on beside its scan.

    Args:
        files: files that take part, by what they are; their content counts and not their name.
    """
    contents = {name: sha256_of(file) for name, file in files.items()}
    text = json.dumps(jsonable([settings, contents]), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
