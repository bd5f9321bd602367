"""How good an image is: against a known truth, as the reference measures it, and against the diffraction data alone.

``evaluate_reconstruction`` is our own set of metrics. ``eval_reconstruction`` and its helpers give the numbers that the
PtychoPINN chain gives, conventions included, so that results can be compared. The last group needs no truth.
"""

from __future__ import annotations

from ptycho_ray.evaluation.calibration import Calibration, calibration_of
from ptycho_ray.evaluation.frc import RingCorrelation, fourier_ring_correlation
from ptycho_ray.evaluation.half_data import half_data_correlation
from ptycho_ray.evaluation.quality import (
    Evaluation,
    Scores,
    evaluate_reconstruction,
    largest_rectangle,
    multiscale_ssim,
)
from ptycho_ray.evaluation.reference import (
    eval_reconstruction,
    fit_and_remove_plane,
    frc50,
    frc_cutoffs,
    mae,
    ms_ssim,
    mse,
    psnr,
    trim,
)
from ptycho_ray.evaluation.registration import (
    Ambiguities,
    align_for_evaluation,
    apply_shift_and_crop,
    crop_truth,
    find_translation_offset,
    fit_ambiguities,
    register_and_align,
)

__all__ = [
    "Ambiguities",
    "Calibration",
    "Evaluation",
    "RingCorrelation",
    "Scores",
    "align_for_evaluation",
    "apply_shift_and_crop",
    "calibration_of",
    "crop_truth",
    "eval_reconstruction",
    "evaluate_reconstruction",
    "find_translation_offset",
    "fit_ambiguities",
    "fit_and_remove_plane",
    "fourier_ring_correlation",
    "frc50",
    "frc_cutoffs",
    "half_data_correlation",
    "largest_rectangle",
    "mae",
    "ms_ssim",
    "mse",
    "multiscale_ssim",
    "psnr",
    "register_and_align",
    "trim",
]
