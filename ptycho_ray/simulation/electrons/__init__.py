"""Simulated scans with electrons: atoms, the potential of their slices, the beam on its way through. numpy and scipy only."""

from __future__ import annotations

from ptycho_ray.simulation.electrons.as_measured import write_as_measured
from ptycho_ray.simulation.electrons.electron_scan import ElectronScan, simulate_electrons
from ptycho_ray.simulation.electrons.electron_spec import ElectronSpec

__all__ = ["ElectronScan", "ElectronSpec", "simulate_electrons", "write_as_measured"]
