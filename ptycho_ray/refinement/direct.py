"""Solving for the object itself, without a network: gradient descent through the same physics.

The probe and the positions are taken as they are; the object starts flat. A few passes over a small scan take seconds and
tell how well the assumed experiment (defocus, positions, photons) can explain the data, which a half-trained network does
not. Patterns that are held out measure that: they take no part in the fit, but their neighbours illuminate the same object.

The loss is the squared difference of diffraction amplitudes, which for photon counts is the Poisson likelihood with its
variance made equal everywhere. Its curvature in a pixel is at most twice the illumination that the pixel received in all, so
a step of the gradient over that illumination never overshoots (it is the error-reduction step with overlap), and Nesterov's
momentum with restarts makes it fast. There is no rate to be tuned.

Legend: n patterns, b patterns at a time, P incoherent modes, N pattern side, [H, W] canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.errors import InputError
from ptycho_ray.physics.diffraction import diffraction_intensity
from ptycho_ray.physics.likelihood import (
    amplitude,
    apply_pixel_mask,
    good_pixel_fraction,
    good_pixels_of,
    negative_log_density,
    poisson_deviance,
    r_factor,
)
from ptycho_ray.reconstruction.stitching import StitchedObject

#: Patterns that are transformed at a time: few enough for the processor's cache.
CHUNK = 32
#: A pixel with less than this share of the best illumination moves as if it had that much.
DARK_SHARE = 1e-2


@dataclass(frozen=True)
class DirectFigures:
    """How well patterns are explained, each figure a mean over the patterns.

    Attributes:
        likelihood: negative logarithm of the probability density of a pixel of the data in the units of the file. Unlike
            the deviance it can compare different photon counts (see :func:`.likelihood.negative_log_density`).
        deviance: Poisson deviance per pixel (:func:`ptycho_ray.physics.likelihood.poisson_deviance`); about one per
            well-lit pixel at the noise limit.
        r_factor: diffraction R-factor.
    """

    likelihood: float
    deviance: float
    r_factor: float


class DirectSolver:
    """Gradient descent on the object of one scan.

    Args:
        photons: measured patterns, float32 [n, N, N], zero frequency at N//2.
        positions_px: float64 [n, 2] (row, column); patch pixel N//2 lies on the position. Sub-pixel parts shift the probe,
            which is exact for a band-limited one.
        probe: modes in sqrt(photons), complex64 [P, N, N].
        learn: bool [n], the patterns that are fitted; all if None.
        photon_scale: photons per unit of the file's intensity; only the likelihood depends on it.
        bad_pixels: bool [N, N], True where a detector pixel is bad; ``photons`` are zero there and it counts nowhere.

    Attributes:
        object: the present estimate, complex64 [H, W], a transmission. Where no light fell it keeps its first value.
        origin_px: position (row, column) of its pixel (0, 0).

    Raises:
        InputError: lengths differ, or nothing is left to learn from.
    """

    def __init__(
        self,
        photons: Tensor,
        positions_px: NDArray[np.float64],
        probe: Tensor,
        *,
        learn: NDArray[np.bool_] | None = None,
        photon_scale: float = 1.0,
        bad_pixels: NDArray[np.bool_] | None = None,
    ) -> None:
        n, side = len(photons), photons.shape[-1]
        self.good_pixels = good_pixels_of(bad_pixels, photons.device)
        if len(positions_px) != n:
            raise InputError(
                field="positions_px", found=f"{len(positions_px)} positions", expected=f"{n}, one a pattern"
            )
        self.photons, self.probe, self.photon_scale = photons, probe.to(torch.complex64), photon_scale
        self.learn = np.ones(n, dtype=bool) if learn is None else np.asarray(learn, dtype=bool)
        if not self.learn.any():
            raise InputError(field="learn", found="no pattern", expected="at least one to learn from")
        whole = np.floor(positions_px + 0.5)
        self.fractions = torch.as_tensor(positions_px - whole, dtype=torch.float32, device=photons.device)
        corners = whole.astype(np.int64) - side // 2
        lowest = corners.min(axis=0)
        height, width = (corners.max(axis=0) - lowest + side).tolist()
        self.origin_px = (float(lowest[0]), float(lowest[1]))
        first = torch.as_tensor((corners - lowest) @ np.array([width, 1]), device=photons.device)
        axis = torch.arange(side, device=photons.device)
        self._first, self._window = first, axis[:, None] * width + axis
        self._probe_spectrum = torch.fft.fft2(self.probe)
        self._frequency = torch.fft.fftfreq(side, device=photons.device)
        empty_beam = apply_pixel_mask(diffraction_intensity(self.probe), self.good_pixels).sum()
        level = math.sqrt(float(photons[self.learn].sum(dim=(-2, -1)).mean() / empty_beam))
        self.object = torch.full((height, width), level, dtype=torch.complex64, device=photons.device)
        self._illumination = self._illuminated()
        self._curvature = 2 * self._illumination.clamp_min(DARK_SHARE * float(self._illumination.max()))
        self._ahead, self._momentum, self._previous_loss = self.object, 1.0, math.inf

    def step(self) -> float:
        """One pass over the patterns that are learnt from; the loss (a learnt pixel) before it.

        Raises:
            ArithmeticError: the loss is not a finite number.
        """
        ahead = torch.view_as_real(self._ahead).reshape(-1, 2).detach().requires_grad_()
        loss = 0.0
        rows = np.flatnonzero(self.learn)
        for some in np.array_split(rows, max(1, -(-len(rows) // CHUNK))):
            predicted = amplitude(self._predict(ahead, some))
            piece = (predicted - self.photons[some].sqrt()).square().sum()
            piece.backward()
            loss += float(piece.detach())
        if not math.isfinite(loss):
            raise ArithmeticError(f"the direct solution has diverged: loss {loss}")
        assert ahead.grad is not None
        gradient = torch.view_as_complex(ahead.grad).reshape(self.object.shape)
        moved = self._ahead - gradient / self._curvature
        if loss > self._previous_loss:
            self._momentum = 1.0
        momentum = (1 + math.sqrt(1 + 4 * self._momentum**2)) / 2
        self._ahead = moved + (self._momentum - 1) / momentum * (moved - self.object)
        self.object, self._momentum, self._previous_loss = moved, momentum, loss
        return loss / (len(rows) * self.photons.shape[-1] ** 2)

    @torch.no_grad()
    def figures(self, rows: NDArray[np.int64], lit: NDArray[np.bool_] | None = None) -> DirectFigures:
        """How well the present object explains the patterns ``rows``; the likelihood of the detector pixels ``lit`` [N, N],
        all if None (:func:`ptycho_ray.tuning.trial.lit_pixels` says why not all)."""
        pixels = torch.ones(self.photons.shape[-2:]) if lit is None else torch.as_tensor(lit, dtype=torch.float32)
        pixels = (pixels / pixels.sum()).to(self.photons.device)
        flat = torch.view_as_real(self.object).reshape(-1, 2)
        sums = np.zeros(3)
        for some in np.array_split(rows, max(1, -(-len(rows) // CHUNK))):
            predicted, counts = self._predict(flat, some), self.photons[some]
            parts = (
                (pixels * negative_log_density(predicted, counts, self.photon_scale)).sum(dim=(-2, -1)),
                poisson_deviance(predicted, counts).mean(dim=(-2, -1)) / good_pixel_fraction(self.good_pixels),
                r_factor(predicted, counts),
            )
            sums += [float(part.sum()) for part in parts]
        return DirectFigures(*(sums / len(rows)).tolist())

    @torch.no_grad()
    def pattern_r_factors(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Diffraction R-factor of each of the patterns ``rows`` [k]."""
        flat = torch.view_as_real(self.object).reshape(-1, 2)
        pieces = np.array_split(rows, max(1, -(-len(rows) // CHUNK)))
        found = [r_factor(self._predict(flat, some), self.photons[some]) for some in pieces]
        return torch.cat(found).cpu().numpy().astype(np.float64)

    def stitched(self) -> StitchedObject:
        """The present object as an image with its illumination as weight; its mean phase is zero."""
        image, weight = self.object.cpu().numpy(), self._illumination.cpu().numpy()
        return StitchedObject(image, weight, self.origin_px).with_zero_mean_phase()

    def _predict(self, flat: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Photons [b, N, N] of the patterns ``rows`` for an object [H * W, 2] (real, imaginary)."""
        places = self._first[rows][:, None, None] + self._window
        patches = torch.view_as_complex(flat.index_select(0, places.reshape(-1))).reshape(places.shape)
        return apply_pixel_mask(diffraction_intensity(patches[:, None] * self._probes(rows)), self.good_pixels)

    def _probes(self, rows: NDArray[np.int64]) -> Tensor:
        """Probe modes moved by the sub-pixel part of each position, [b, P, N, N]."""
        turns = torch.exp(-2j * math.pi * self._frequency * self.fractions[rows][..., None])  # [b, 2, N]
        moved = self._probe_spectrum * (turns[:, 0, :, None] * turns[:, 1, None, :])[:, None]
        return torch.fft.ifft2(moved)

    @torch.no_grad()
    def _illuminated(self) -> Tensor:
        """Probe intensity that each pixel of the canvas receives from the patterns that are learnt from, [H, W]."""
        total = torch.zeros(self.object.numel(), device=self.photons.device)
        rows = np.flatnonzero(self.learn)
        for some in np.array_split(rows, max(1, -(-len(rows) // CHUNK))):
            places = self._first[some][:, None, None] + self._window
            total.index_add_(0, places.reshape(-1), self._probes(some).abs().square().sum(dim=1).reshape(-1))
        return total.reshape(self.object.shape)


def held_out_patterns(n: int, fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """A random ``fraction`` of n patterns, scattered over the scan; at least one, unless it is 0. bool [n], True = held out."""
    held_out = np.zeros(n, dtype=bool)
    if fraction > 0:
        held_out[generator.choice(n, size=max(1, round(fraction * n)), replace=False)] = True
    return held_out
