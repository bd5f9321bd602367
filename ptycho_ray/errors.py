"""Errors that state what was found, where, and what was expected instead."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input from the user cannot be used. The message names the file, the field, what was found and what was
    expected, in that order, as far as known.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        file: str | Path | None = None,
        field: str | None = None,
        found: object | None = None,
        expected: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file, self.field, self.found, self.expected, self.hint = file, field, found, expected, hint
        place = ": ".join(str(part) for part in (file, field) if part is not None)
        facts = [problem] if problem else []
        if found is not None:
            facts.append(f"found {found}")
        if expected is not None:
            facts.append(f"expected {expected}")
        text = "; ".join(facts)
        if place:
            text = f"{place}: {text}"
        if hint:
            text = f"{text}. {hint}"
        super().__init__(text)


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was named does not exist or cannot be opened."""


class ConfigurationError(InputError):
    """A setting is unknown, has the wrong type or lies outside its range."""


class BundleError(InputError):
    """A model bundle cannot be read: truncated, tampered with, of a newer schema or not a bundle."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by the user; ``checkpoint`` is where it can be resumed from, None if nothing was saved."""

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        super().__init__(
            f"training interrupted; state saved to {checkpoint}" if checkpoint else "interrupted; nothing was saved"
        )
