"""Parity of the evaluation with numbers that the PtychoPINN chain produced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation import (
    align_for_evaluation,
    apply_shift_and_crop,
    eval_reconstruction,
    find_translation_offset,
    fit_and_remove_plane,
    frc_cutoffs,
    mae,
    ms_ssim,
    mse,
    psnr,
    register_and_align,
    trim,
)

CASES = ["identical", "noisy_ramp", "blurred", "unrelated", "rect", "odd"]
VARIANTS = [("plane", 0), ("plane", 1), ("mean", 0)]
PAIRED = ("mae", "mse", "psnr", "ssim", "ms_ssim", "frc50", "frc1over7")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("method", "sigma"), VARIANTS)
def test_eval_reconstruction_gives_the_reference_numbers(golden: Any, case: str, method: str, sigma: int) -> None:
    images, numbers = golden("f_evaluation.npz"), golden("f_evaluation.json")
    name = f"{case}/{method}_frcsigma{sigma}"
    found = eval_reconstruction(
        images[f"{case}/pred"][None, :, :, None],
        images[f"{case}/target"][:, :, None],
        phase_align_method=method,
        frc_sigma=sigma,
    )
    for metric in PAIRED:
        np.testing.assert_allclose(found[metric], numbers[name][metric], rtol=3e-6, atol=1e-7, err_msg=metric)
    # The reference works in float32; rings in which two unrelated images nearly cancel amplify its rounding.
    atol = 2e-4 if case == "unrelated" else 2e-6
    np.testing.assert_allclose(found["frc"][0], images[f"{name}/frc_amp"], atol=atol)
    np.testing.assert_allclose(found["frc"][1], images[f"{name}/frc_phase"], atol=atol)


def test_component_functions_give_the_reference_numbers(golden: Any) -> None:
    images, numbers = golden("f_evaluation.npz"), golden("f_evaluation.json")["components"]
    truth, pred = np.abs(images["noisy_ramp/target"]), np.abs(images["noisy_ramp/pred"])
    assert mae(truth, pred) == pytest.approx(numbers["mae_norm"], rel=1e-6)
    assert mse(truth, pred) == pytest.approx(numbers["mse_norm"], rel=1e-6)
    assert psnr(truth, pred) == pytest.approx(numbers["psnr_norm"], abs=1e-6)
    assert psnr(truth, pred, normalize=False) == pytest.approx(numbers["psnr_raw"], abs=1e-6)
    assert ms_ssim(truth, pred) == pytest.approx(numbers["ms_ssim0"], rel=1e-9)
    assert ms_ssim(truth, pred, 1.0) == pytest.approx(numbers["ms_ssim1"], rel=1e-9)
    phase = np.angle(images["noisy_ramp/pred"])
    np.testing.assert_allclose(fit_and_remove_plane(phase), images["plane_removed_noisy"], atol=1e-12)


def test_alignment_gives_the_reference_crops(golden: Any) -> None:
    case = golden("f_alignment.npz")
    recon, truth = align_for_evaluation(case["recon"], case["gt"], case["coords_yx"], int(case["M"]))
    np.testing.assert_array_equal(recon, case["aligned_recon"])
    np.testing.assert_array_equal(truth, case["aligned_gt"])


def test_registration_gives_the_reference_offset_and_image(golden: Any) -> None:
    case = golden("f_alignment.npz")
    moving, reference = case["reg_moving"], case["reg_ref"]
    offset = find_translation_offset(moving, reference)
    np.testing.assert_allclose(offset, case["reg_offset"], atol=1e-6)
    moved, kept = apply_shift_and_crop(moving, reference, offset, border_crop=10)
    np.testing.assert_allclose(moved, case["reg_out"], atol=1e-6)
    np.testing.assert_array_equal(kept, case["reg_ref_out"])
    again, _ = register_and_align(moving, reference, border_crop=10)
    np.testing.assert_array_equal(again, moved)


def test_plane_against_a_reference_leaves_only_the_difference_flat() -> None:
    rows, columns = np.indices((20, 30))
    reference = np.sin(rows / 3.0)
    tilted = reference + 0.2 * rows - 0.1 * columns + 1.0
    np.testing.assert_allclose(fit_and_remove_plane(tilted, reference), reference, atol=1e-10)


def test_trim_and_cutoffs() -> None:
    assert trim(np.zeros((10, 12))).shape == (6, 8)
    with pytest.raises(InputError, match="even"):
        trim(np.zeros((10, 12)), offset=3)
    assert frc_cutoffs(np.array([1.0, 0.75, 0.25, 0.1])) == pytest.approx((1.5, 2 + (0.25 - 1 / 7) / 0.15))
    assert frc_cutoffs(np.array([0.1, 1.0])) == (0.0, 0.0)
    assert frc_cutoffs(np.ones(5)) == (5.0, 5.0)


def test_eval_reconstruction_refuses_what_it_cannot_compare(rng: np.random.Generator) -> None:
    image = rng.random((32, 32)) * np.exp(1j * rng.random((32, 32)))
    with pytest.raises(InputError, match=r"stitched_obj run1.*\(32, 32\)"):
        eval_reconstruction(image, image[:30], label="run1")
    with pytest.raises(InputError, match="phase_align_method"):
        eval_reconstruction(image, image, phase_align_method="median")
    with pytest.warns(UserWarning, match="ignores lowpass_n"):
        eval_reconstruction(image, image, lowpass_n=2)
