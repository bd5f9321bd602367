"""Errors that state what was found, where, and what was expected instead."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

#: Exit codes: done, failed, wrong usage or unusable input, an image that is there and explains nothing, interrupted.
OK, FAILED, BAD_INPUT, NOT_TRUSTED, INTERRUPTED = 0, 1, 2, 3, 130


def to_type(path: str | Path, *words: str, program: str = "info") -> str:
    """The end of an error: the command that reads a file with other options, or another file."""
    return f"Type: {' '.join(['ptycho-ray', program, shlex.quote(str(path)), *words])}"


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

    def with_options(self, path: Path, words: Sequence[str]) -> InputError:
        """The same error whose command to type keeps the options ``words`` of reading that were given already, but for those
        that it replaces."""
        command = to_type(path)
        if self.hint is None or command not in self.hint:
            return self
        before, _, after = self.hint.partition(command)
        options: list[list[str]] = []
        for word in words:
            if word.startswith("--"):
                options.append([])
            options[-1].append(word)
        kept = ""
        for option in options:
            text = shlex.join(option)
            if option[0] == "--drop" and f"{text}," not in after and f"{text} " not in f"{after} ":
                after = after.replace("--drop ", f"{text},")  # what was left out stays so
            kept += "" if option[0] in after.split() else f" {text}"
        made = type(self)(
            self.problem,
            file=self.file,
            field=self.field,
            found=self.found,
            expected=self.expected,
            hint=f"{before}{command}{kept}{after}",
        )
        return made.with_traceback(self.__traceback__)


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was named does not exist or cannot be opened."""


class DiskFullError(OSError):
    """There is no room left for a file; what was written before is kept."""

    def __init__(self, path: Path, free: int) -> None:
        super().__init__(
            f"{path}: no room on the disk ({free / 2**20:.3g} MiB free): the file was not written, what was there before is "
            "kept. Make room, or name another folder"
        )


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
