"""The page docs/field.md: what people wrote above the mark stays, the tables below it are made from the results."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from benchmarks.field.contracts import CONTRACTS
from benchmarks.field.methods import METHODS, methods_of
from benchmarks.field.published import FOR_A_GPU, PUBLISHED, Published
from benchmarks.field.results import Result

MARK = "<!-- below: `python -m benchmarks.field page` -->"
#: Figure, digits; the reference's metric, and the errors of ours.
COLUMNS = (
    ("reference_amplitude_mae", 4), ("reference_amplitude_ssim", 3), ("reference_amplitude_psnr", 1),
    ("reference_amplitude_frc50", 0), ("reference_phase_mae", 4), ("reference_phase_ssim", 3),
    ("reference_phase_frc50", 0), ("ours_phase_mae", 4), ("ours_complex_error", 4),
)  # fmt: skip
HEAD = (
    "| row | amplitude MAE | SSIM | PSNR | FRC50 | phase MAE | SSIM | FRC50 | phase, one phase first | complex error "
    "| CPU s | parameters | uses |\n| --- |" + " --- |" * 12
)
BARS = ("amplitude_coverage", "amplitude_rank", "phase_coverage", "phase_rank")


def text(head: str, found: list[Result]) -> str:
    """The page: ``head`` up to the mark, then a section a contract."""
    kept = head.split(MARK)[0].rstrip()
    return "\n".join([kept, "", MARK, *(line for contract in CONTRACTS for line in section(contract, found))]) + "\n"


def section(contract: str, found: list[Result]) -> list[str]:
    """Heading, a table for every line of the contract, what was not run."""
    by_method: dict[str, list[Result]] = defaultdict(list)
    for result in found:
        if result.contract == contract:
            by_method[result.method].append(result)
    lines = list(dict.fromkeys(line for results in by_method.values() for line in results[0].lines))
    order = [*methods_of(contract), *sorted(set(by_method) - set(METHODS))]
    page = ["", f"## {contract}", ""]
    for line in lines:
        rows = [_row(line, name, by_method[name]) for name in order if name in by_method]
        rows += [_published(row) for row in PUBLISHED.get(contract, ()) if row.line == line]
        page += [*([f"### {contract}: {line}", ""] if len(lines) > 1 else []), HEAD, *rows, ""]
    page += _bars(by_method, lines)
    missing = ", ".join(f"`{name}`" for name in order if name not in by_method)
    page += [f"Not run: {missing}.", ""] if missing else []
    if contract in FOR_A_GPU:
        what, command = FOR_A_GPU[contract]
        page += [f"Not run, for a GPU: {what} (`{command}`)."]
    return page if page[-1] else page[:-1]


def _row(line: str, name: str, results: list[Result]) -> str:
    """One method: means over the seeds, with half the spread where there are several."""
    cells = [
        _cell([result.lines[line].get(figure, math.nan) for result in results], digits) for figure, digits in COLUMNS
    ]
    seconds = f"{np.mean([result.seconds for result in results]):.0f}"
    if results[0].training_seconds is not None:
        seconds += f" + {results[0].training_seconds:.0f} of training"
    trained = f"{results[0].parameters:,}" if results[0].parameters else "0"
    seeds = f", {len(results)} seeds" if len(results) > 1 else ", 1 seed"
    return f"| **{name}**{seeds} | {' | '.join(cells)} | {seconds} | {trained} | {results[0].uses} |"


def _cell(values: list[float], digits: int) -> str:
    if not np.isfinite(values).all():
        return "-"
    spread = f" ± {np.ptp(values) / 2:.{digits}f}" if len(values) > 1 and round(np.ptp(values) / 2, digits) else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _published(row: Published) -> str:
    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    cells = [
        cell(row.amplitude_mae, 4), cell(row.amplitude_ssim, 3), cell(row.amplitude_psnr, 1), "-",
        cell(row.phase_mae, 4), cell(row.phase_ssim, 3),
    ]  # fmt: skip
    return f"| {row.row} | {' | '.join(cells)} | - | - | - | - | - | {row.source} |"


def _bars(by_method: dict[str, list[Result]], lines: list[str]) -> list[str]:
    """A table of error bars, if a method has them."""
    page = []
    for name, results in by_method.items():
        if BARS[0] not in results[0].lines[lines[0]]:
            continue
        page += [
            f"Error bars of `{name}`, nominal 0.70:",
            "",
            f"| |{'|'.join(f' {bar} '.replace('_', ' ') for bar in BARS)}|",
        ]
        page += ["| --- |" + " --- |" * len(BARS)]
        for line in lines:
            cells = (_cell([result.lines[line][bar] for result in results], 2) for bar in BARS)
            page.append(f"| {line} | {' | '.join(cells)} |")
        page.append("")
    return page


def summary(result: Result) -> str:
    """The errors of a result on one line."""
    cells = "; ".join(
        f"{line} {figures['reference_amplitude_mae']:.4f} / {figures['reference_phase_mae']:.4f}"
        for line, figures in result.lines.items()
    )
    return f"amplitude / phase MAE {cells}; {result.seconds:.0f} s"
