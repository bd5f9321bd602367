"""Simulated scans with a known truth: objects, probes, scan positions, photon noise. numpy only."""

from __future__ import annotations

from ptycho_ray.physics.optics import linear_overlap, probe_diameter_px, propagate
from ptycho_ray.simulation.objects import OBJECTS, make_object
from ptycho_ray.simulation.probes import (
    PROBES,
    make_probe,
    probe_from_file,
    with_photons,
)
from ptycho_ray.simulation.scan_patterns import SCANS, make_scan, scan_for_overlap, step_for_overlap
from ptycho_ray.simulation.simulate import simulate_patterns, simulate_scan
from ptycho_ray.simulation.spec import SimulationSpec, simulate

__all__ = [
    "OBJECTS",
    "PROBES",
    "SCANS",
    "SimulationSpec",
    "linear_overlap",
    "make_object",
    "make_probe",
    "make_scan",
    "probe_diameter_px",
    "probe_from_file",
    "propagate",
    "scan_for_overlap",
    "simulate",
    "simulate_patterns",
    "simulate_scan",
    "step_for_overlap",
    "with_photons",
]
