"""The actor on which workers post what happens. Its process imports neither torch nor a part of ours that does."""

from __future__ import annotations

from typing import Any


class EventQueue:
    """Notes in the order in which they were posted, and the error that ends the run, if there is one."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Any]] = []
        self.error: Exception | None = None

    def post(self, notes: list[tuple[str, Any]]) -> None:
        self.notes += notes

    def take(self) -> list[tuple[str, Any]]:
        notes, self.notes = self.notes, []
        return notes

    def fail(self, error: Exception) -> None:
        self.error = self.error or error

    def failure(self) -> Exception | None:
        return self.error
