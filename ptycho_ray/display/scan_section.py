"""The part of a report that shows how a scan was illuminated: its probe, every mode of it, and its positions."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ptycho_ray.display.figures import plot_positions, plot_probe
from ptycho_ray.display.report import Section


def scan_section(
    probe: NDArray[Any], positions_px: NDArray[Any], pixel_size_m: float | None, title: str = "Probe and positions"
) -> Section:
    """Modes of a probe [P, N, N] and positions [n, 2] (row, column), drawn with scale bars."""
    modes = plot_probe(probe, pixel_size_m=pixel_size_m)
    positions = plot_positions(positions_px, pixel_size_m=pixel_size_m)
    return Section(
        title, pictures=[("The probe: brightness is amplitude, colour is phase.", modes), ("Positions.", positions)]
    )
