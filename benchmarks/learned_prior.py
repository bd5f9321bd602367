"""The learned prior in the solver, with a truth to compare: sparse scans, and lines64 over the dose.

    python benchmarks/learned_prior.py DATA_FOLDER sparse|dose [SEED ...]

``sparse``: object and probe of sim64_1e6.npz (neither is of a kind that the shipped prior was trained on), 1e6 photons a pattern in
the beam, a jittered grid of a stated linear overlap (1 - step / diameter of the circle that holds 90 % of the photons), probe
known, flat start. NRMSE as in refinement_metric.py inside the ``roi`` of the file, the unlit corners between the probes included;
FRC is the highest frequency (cycles a pixel, at most 0.5) up to which the ring correlation with the truth stays above a half.
``dose``: lines64 with a known probe (benchmarks/low_dose.py), figures as in docs/quality.md.
Every scan is solved without and with the prior; its strength is chosen by patterns that take no part.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch
from quality import score
from refinement_metric import distance_to_truth, matched_to_truth
from single_shot import lines64

from ptycho_ray.data import RawData
from ptycho_ray.evaluation.frc import fourier_ring_correlation
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.workflow import StitchedObject
