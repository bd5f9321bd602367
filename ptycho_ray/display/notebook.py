"""Scans and results as HTML for Jupyter."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.data import RawData
from ptycho_ray.data.inspection import describe_scan
from ptycho_ray.files import short_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scan_html(scan: RawData) -> str:
    """A scan as HTML: what it is, some patterns, its positions and its probe."""
    from ptycho_ray.display.figures import plot_patterns, plot_positions, plot_probe

    facts = {name.replace("_", " "): value for name, value in describe_scan(scan).items()}
    pictures = [
        plot_patterns(scan.patterns.intensity(np.linspace(0, len(scan) - 1, min(4, len(scan))).astype(int))),
        plot_positions(scan.positions_px, pixel_size_m=scan.pixel_size_m),
        plot_probe(scan.probe, pixel_size_m=scan.pixel_size_m),
    ]
    return card(f"Scan {Path(scan.source).name}".strip(), facts, pictures)


def card(title: str, facts: Mapping[str, Any], pictures: list[Figure]) -> str:
    """A title, a table and pictures as self-contained HTML."""
    from ptycho_ray.display.report import data_url

    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(str(name))}</th><td>{html.escape(short_text(value))}</td></tr>"
        for name, value in facts.items()
    )
    images = "".join(f"<img style='max-width:100%' alt='' src='{data_url(picture, dpi=80)}'>" for picture in pictures)
    return f"<div><b>{html.escape(title)}</b><table>{rows}</table>{images}</div>"
