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
    images, numbers = golden("f_evaluation.npz", large=case != "noisy_ramp"), golden("f_evaluation.json")
    name = f"{case}/{method}_frcsigma{sigma}"
    pred, target = images[f"{case}/pred"], images[f"{case}/target"]

    def evaluated(pred: Any, target: Any) -> dict[str, Any]:
        return eval_reconstruction(
            pred[None, :, :, None], target[:, :, None], phase_align_method=method, frc_sigma=sigma
        )

    found = evaluated(pred, target)
    rng = np.random.default_rng(0)
    draws = 0 if case == "identical" else 3  # of equal images nothing is left to round
    disturbed = [evaluated(rounded_otherwise(pred, rng), rounded_otherwise(target, rng)) for _ in range(draws)]
    for number, part in enumerate(("amp", "phase")):
        for metric in PAIRED:
            ours, reference = found[metric][number], numbers[name][metric][number]
            rounding = max((abs(other[metric][number] - ours) for other in disturbed), default=0.0)
            assert ours == pytest.approx(reference, rel=3e-6, abs=max(1e-7, 3e-6 * abs(reference)) + 4 * rounding), (
                metric
            )
            assert rounding <= 1e-4 * abs(ours)
        curve = found["frc"][number]
        rounding = np.max([np.abs(other["frc"][number] - curve) for other in disturbed or [found]], axis=0)
        assert np.all(np.abs(curve - images[f"{name}/frc_{part}"]) <= 2e-6 + 4 * rounding)
        assert np.mean(rounding < 1e-5) > 0.7  # most rings are held to what does not depend on the processor


def rounded_otherwise(image: Any, rng: np.random.Generator) -> Any:
    """``image`` with amplitude and phase wrong by the last bit of float32, in which the images are stored.

    Processors round absolute value and angle of complex64 differently, and rings that are almost dark amplify that.
    """
    last_bit = float(np.finfo(np.float32).eps)
    amplitude, phase = (last_bit * size * rng.choice((-1, 1), image.shape) for size in (1, 2))
    return image.astype(np.complex128) * (1 + amplitude) * np.exp(1j * phase)


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
    last_bit = 2 * float(np.finfo(np.float32).eps)  # of an angle in float32, which processors round differently
    np.testing.assert_allclose(
        fit_and_remove_plane(phase)[:10], images["plane_removed_noisy"], rtol=0, atol=2 * last_bit
    )


def test_alignment_gives_the_reference_crops(golden: Any) -> None:
    case = golden("f_alignment.npz", large=True)
    recon, truth = align_for_evaluation(case["recon"], case["gt"], case["coords_yx"], int(case["M"]))
    np.testing.assert_array_equal(recon, case["aligned_recon"])
    np.testing.assert_array_equal(truth, case["aligned_gt"])


def test_registration_gives_the_reference_offset_and_image(golden: Any) -> None:
    case = golden("f_alignment.npz", large=True)
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
