"""One JSON file a row and seed: what was measured, by what command, in how much time."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.field.figures import mean_of

FOLDER = Path(__file__).parent / "results"
DIGITS = 5


@dataclass(frozen=True)
class Result:
    """A row of the page for one seed.

    Attributes:
        lines: line of the page -> figure -> value; not a number is null in the file.
        seconds: processor seconds of this process for all cases; training is not in it.
        training_seconds: of the training, None where nothing was trained here.
        parameters: trained parameters.
        uses: which information the method uses.
    """

    contract: str
    method: str
    seed: int
    lines: dict[str, dict[str, float]]
    seconds: float
    uses: str
    parameters: int = 0
    training_seconds: float | None = None
    command: str = ""


def path_of(contract: str, method: str, seed: int, folder: Path = FOLDER) -> Path:
    return folder / f"{contract}-{method}-{seed}.json"


def write(result: Result, folder: Path = FOLDER) -> Path:
    """Write a result; figures are rounded to five digits."""
    lines = {
        line: {name: round(value, DIGITS) if math.isfinite(value) else None for name, value in figures.items()}
        for line, figures in result.lines.items()
    }
    path = path_of(result.contract, result.method, result.seed, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result) | {"lines": lines}, indent=1) + "\n")
    return path


def read(path: Path) -> Result:
    content = json.loads(path.read_text())
    lines = {
        line: {name: math.nan if value is None else value for name, value in figures.items()}
        for line, figures in content["lines"].items()
    }
    return Result(**(content | {"lines": lines}))


def all_results(folder: Path = FOLDER) -> list[Result]:
    return [read(path) for path in sorted(folder.glob("*.json"))]


def together(found: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The figures of several cases by line, means over the cases of a line."""
    lines: dict[str, list[dict[str, float]]] = defaultdict(list)
    for of_case in found:
        for line, figures in of_case.items():
            lines[line].append(figures)
    return {line: mean_of(figures) for line, figures in lines.items()}
