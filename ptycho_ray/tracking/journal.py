"""The journal of a run: what is to be recorded, one JSON object per line, in the order in which it happened.

It is in ``OUTPUT_DIR/tracking/TIME/`` with the pictures it refers to. ``delivered.json`` next to it states how far it
has been sent. Both survive the loss of either process at any time: an incomplete line is not read, and sending a record
twice changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptycho_ray.files import write_json

JOURNAL, DELIVERED = "journal.jsonl", "delivered.json"

Record = dict[str, Any]


def new_run_folder(output: Path) -> Path:
    """Make the folder of a new run; their names sort by time."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1000):
        folder = output / "tracking" / f"{stamp}-{number:03}"
        if not folder.exists():
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(f"{output / 'tracking'} holds a thousand runs of this second")


def run_folders(output: Path) -> list[Path]:
    """The folders of all runs that were recorded in an output folder, oldest first."""
    return sorted(path.parent for path in (output / "tracking").glob(f"*/{JOURNAL}"))


class JournalWriter:
    """Appends records to a journal, each complete and in the hands of the operating system before the call returns."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        whole = 0
        if self.path.exists():
            whole = self.path.read_bytes().rfind(b"\n") + 1
        self._file = self.path.open("ab", buffering=0)
        self._end = whole
        self._file.truncate(whole)

    def write(self, kind: str, **content: Any) -> None:
        """Append a record with the time of now; on an error (a full disk) the journal is as it was before."""
        record = {"kind": kind, "time": int(time.time() * 1000), **content}
        line = json.dumps(record).encode("ascii") + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written")
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(line)

    def close(self) -> None:
        """Close the journal."""
        self._file.close()


def read_journal(folder: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """The complete records from byte ``offset`` on, each with the offset behind it."""
    path = folder / JOURNAL
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _parsed(line), offset


def _parsed(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) and "kind" in record else {"kind": "unreadable"}


@dataclass
class Delivered:
    """How far a journal has been sent, and to which store.

    Attributes:
        tracking_uri: the store, without a password; empty before the first attempt.
        run_id: the run there; empty until it exists.
        offset: the bytes of the journal that the store has.
        error: what went wrong in the last attempt; None after one that succeeded.
        refused: records that the store will never take, and why.
        model: the last registered model, as a ``models:/`` URI.
    """

    tracking_uri: str = ""
    run_id: str = ""
    offset: int = 0
    error: str | None = None
    refused: list[str] = field(default_factory=list)
    model: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Delivered:
        """The state stored in ``folder``; a new one if there is none."""
        try:
            return cls(**json.loads((folder / DELIVERED).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        write_json(folder / DELIVERED, dataclasses.asdict(self))


def undelivered(folder: Path) -> int:
    """How many records of a journal have not been sent."""
    return sum(1 for _ in read_journal(folder, Delivered.read(folder).offset))
