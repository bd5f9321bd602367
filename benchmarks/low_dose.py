"""The best that a Gaussian expectation could make of lines64 at a low dose: a bound for the rows of `benchmarks.field`.

    python -m benchmarks.low_dose [PHOTONS]

The most probable object for somebody who knows the power spectrum of the true one (isotropic): the maximum of Poisson
likelihood times that Gaussian prior. No reconstruction that is not told of more than a spectrum can be expected to do much
better. The probe is the true one. Figures and scan are those of the contract ``dose``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.field.__main__ import DATA
from benchmarks.field.contracts import dose_scan
from benchmarks.field.figures import figures_of
from ptycho_ray.data import RawData
from ptycho_ray.refinement.solver import Refinement, RefinementConfig

#: Added to the predicted photons of a pixel in the likelihood: a photon where none was expected is not infinitely surprising.
DARK = 1e-2
ITERATIONS = 300


def amplitude_spectrum(image: NDArray[Any], shape: tuple[int, ...]) -> Tensor:
    """Root of the mean power of ``image`` at each spatial frequency of an image of ``shape``, isotropic, unitary transform."""
    side = image.shape[0]
    window = np.hanning(side)[:, None] * np.hanning(side)
    window /= np.sqrt(np.mean(window**2))
    power = np.abs(np.fft.fft2((image - image.mean()) * window, norm="ortho")) ** 2

    def radius(sides: tuple[int, ...]) -> NDArray[np.float64]:
        return np.hypot(np.fft.fftfreq(sides[0])[:, None], np.fft.fftfreq(sides[1]))

    ring = np.round(radius(image.shape) * side).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.bincount(ring)
    root = np.sqrt(np.interp(radius(shape), np.arange(len(mean)) / side, mean))
    root[0, 0] = root.max()  # the mean is not known beforehand
    return torch.from_numpy(root).float()


def most_probable(scan: RawData) -> Refinement:
    """The maximum of the posterior, by a quasi-Newton method over the object's coefficients in units of their expected size."""
    assert scan.object_truth is not None
    solver = Refinement(scan, RefinementConfig(held_out_fraction=0.0, probe_start=None))
    kernel, state = solver.run.kernel, solver.run.state
    root = amplitude_spectrum(scan.object_truth, tuple(state.object.shape[-2:]))
    mean = abs(complex(scan.object_truth.mean()))
    unknown = torch.zeros(*root.shape, 2, requires_grad=True)

    def misfit_and_gradient() -> Tensor:
        coefficients = torch.view_as_complex(unknown.detach())
        state.object.copy_(mean + torch.fft.ifft2(coefficients * root, norm="ortho")[None])
        total, gradient = coefficients.abs().square().sum().double(), torch.zeros_like(state.object[0])
        for rows in torch.arange(len(scan)).split(32):
            waves = kernel.forward(state, rows)
            counts, rate = kernel.amplitude[rows].square(), waves.intensity
            total += (rate - counts * torch.log(rate + DARK)).sum(dtype=torch.float64)
            by_wave = waves.detector.conj() * (1 - counts / (rate + DARK))[:, None]
            kernel.scatter(gradient, waves.lines, kernel.back_to_object(waves, by_wave)[0][0])
        by_coefficient = torch.fft.fft2(gradient.conj(), norm="ortho") * root + coefficients
        unknown.grad = 2 * torch.view_as_real(by_coefficient)
        return total

    torch.optim.LBFGS(
        [unknown],
        max_iter=ITERATIONS,
        history_size=15,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    ).step(misfit_and_gradient)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        misfit_and_gradient()
    return solver


def main() -> int:
    torch.set_num_threads(1)
    case = dose_scan(DATA, float(sys.argv[1]) if len(sys.argv) > 1 else 1e4, seed=1)
    for name, figure in figures_of(case, most_probable(case.scan).stitched())[case.name].items():
        print(f"{name}: {figure:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
