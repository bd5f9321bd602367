"""The HTML report of a run: metrics, pictures, settings and provenance, in a single file."""

from __future__ import annotations

import base64
import io
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ptycho_ray import __version__
from ptycho_ray.files import Part, atomic_path, checksums_of, digests_in_threads, package_version, short_text

PACKAGES = ("numpy", "scipy", "torch", "h5py", "scikit-image", "matplotlib")


@dataclass(frozen=True)
class Section:
    """A part of the page: some text, a table, pictures. Any of them may be missing.

    Attributes:
        facts: a table of name and value; a value that is a mapping becomes a table in its cell.
        rows: a table with one line for each mapping and one column for each of their keys.
        pictures: caption and figure.
        folded: show only the title until the reader opens it.
    """

    title: str
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[tuple[str, Figure]] = ()
    folded: bool = False


def write_report(path: str | Path, *, title: str, sections: Sequence[Section]) -> Path:
    """Write the page atomically. Pictures are embedded, so the file is self-contained."""
    environment = Environment(loader=PackageLoader("ptycho_ray.display"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"png": data_url, "value": format_value, "columns": _columns}
    page = environment.get_template("report.html").render(
        title=title, sections=sections, version=__version__, time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def provenance(
    *,
    seed: int | None = None,
    data_files: Sequence[str | Path] = (),
    digests_of: Callable[[Sequence[Part]], list[bytes]] = digests_in_threads,
) -> dict[str, Any]:
    """What is needed to reproduce a result: program versions, command line, seed and checksums of the data files
    (:func:`ptycho_ray.files.checksums_of`)."""
    return {
        "ptycho_ray": __version__,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
        "platform": platform.platform(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "data": checksums_of(data_files, digests_of),
    }


def format_value(value: Any) -> str:
    """A number with four digits, yes or no, a dash for None."""
    return short_text(value, nothing="–")


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def data_url(figure: Figure, dpi: int = 130) -> str:
    """A figure as a PNG data URL, for a self-contained page."""
    stream = io.BytesIO()
    figure.dpi = dpi
    FigureCanvasAgg(figure).print_png(stream)  # savefig would draw a figure with a layout twice
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
