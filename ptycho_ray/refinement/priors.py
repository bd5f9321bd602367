"""What is expected of an object before any pattern is seen, as a part of the loss: that it is smooth, or looks like others.

**Smooth**: what takes the noise from an image of few electrons. The sum over all pixels of
``photons / 2 * (length * |difference of neighbours|)**2`` joins the loss. Where the patterns tell about a pixel what its
photons tell, that lets the spatial frequency f through by ``1 / (1 + (2 pi f length)**2)``: what is finer than the length
is damped. The same along the depth, where patterns tell little: slices that differ, differ because the patterns say so.

**Learned**: a denoiser knows what objects look like. Every few iterations it is shown the present image, and what it takes
for noise joins the derivative, ``strength * photons / 2 * (image - denoised)`` (regularisation by denoising: Romano, Elad,
Milanfar, SIAM J. Imaging Sci. 10, 2017). A pull towards the denoised image instead, as of half-quadratic splitting, would
hold back what is smooth, which converges slowest; and a denoiser knows least of it, so what is smooth is left to the
patterns. The noise that it is told is that of the photons which fell on each pixel: at a high dose it changes nothing that
was lit.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ptycho_ray.models.denoiser import Denoiser, load_prior
from ptycho_ray.refinement.run import Run

#: Share of the brightest illumination from which on a pixel is taken for lit.
LIT = 0.3
#: Iterations for which a denoised image serves.
SERVES = 2
#: Share of the photon noise that the denoiser is told: the prior has taken a part of it already.
NOISE_TOLD = 0.7
#: Most noise that it is told, in units of the mean amplitude.
MOST_NOISE = 1.5
#: Lines that are denoised at once, of a canvas of this width, and lines around them that count.
PIXELS, MARGIN = 2**20, 32
#: What is smooth over so many pixels (the standard deviation of a Gaussian) is left to the patterns.
SMOOTH_PX = 2.0
#: By so much is the image turned from one time to the next: the denoiser has no preferred phase then.
TURN = math.pi * (3 - math.sqrt(5))


class Prior(Protocol):
    """A part of the loss that depends on the object alone."""

    @property
    def curvature(self) -> float:
        """The largest, in the units in which that of the loss is the photons of a pixel."""

    def begin(self, run: Run) -> None:
        """At the start of an iteration."""

    def add_derivative(self, by_object: Tensor, image: Tensor, box: tuple[slice, ...], share: float) -> None:
        """Add to ``by_object`` [S, H, W], within ``box``, its derivative by the object, times ``share``."""


def priors_of(run: Run) -> list[Prior]:
    """Those that the settings ask for."""
    config = run.config
    found: list[Prior] = []
    if config.smoothing_length_px or config.depth_smoothing_slices:
        found.append(Smoothness(run))
    if config.prior != "none" and config.prior_strength:
        found.append(Learned(run, load_prior(config.prior)))
    return found


def lit_photons(light: Tensor) -> float:
    """The median over the well-lit pixels of the photons that fell on each pixel, [H, W]."""
    return float(light[light > LIT * light.max()].median())


class Smoothness:
    """The prior of one run.

    Args:
        run: its illumination at the start says how many photons a pixel has.
    """

    def __init__(self, run: Run) -> None:
        config = run.config
        photons = lit_photons(run.illumination())
        self.lateral = 0.5 * photons * config.smoothing_length_px**2
        self.depth = 0.5 * photons * config.depth_smoothing_slices**2

    @property
    def curvature(self) -> float:
        return 8 * self.lateral + 4 * self.depth

    def begin(self, run: Run) -> None:
        """It does not change."""

    def add_derivative(self, by_object: Tensor, image: Tensor, box: tuple[slice, ...], share: float) -> None:
        by_object, image = by_object[box], image[box]
        for weight, axes in ((self.lateral, (-2, -1)), (self.depth, (0,))):
            for axis in axes if weight else ():
                across = image.diff(dim=axis).conj_physical_().mul_(share * weight)
                length = across.shape[axis]
                by_object.narrow(axis, 1, length).add_(across)
                by_object.narrow(axis, 0, length).sub_(across)


class Learned:
    """A denoiser as the prior of one run.

    Args:
        run: its illumination at the start says how many photons a pixel has.
        network: the denoiser.
    """

    def __init__(self, run: Run, network: Denoiser) -> None:
        light = run.illumination()
        photons = lit_photons(light)
        self._network = network.to(light.device)
        self._noise = NOISE_TOLD * (2 * light.clamp_min(1e-6 * photons)).rsqrt()
        self._weight = 0.5 * (run.config.prior_strength or 0.0) * photons
        self._lit = light > LIT * light.max()
        self._noise_part = torch.zeros_like(run.state.object)
        rows, columns = (torch.fft.fftfreq(length, device=light.device) for length in light.shape)
        self._smooth = torch.exp(-2 * (math.pi * SMOOTH_PX) ** 2 * (rows[:, None].square() + columns.square()))

    @property
    def curvature(self) -> float:
        return 4 * self._weight  # a denoiser that turns details over takes twice the image for noise

    @torch.no_grad()
    def begin(self, run: Run) -> None:
        """Denoise the present image, if it is time."""
        if run.iteration % SERVES:
            return
        turn = torch.polar(torch.ones(()), torch.tensor(TURN * (run.iteration // SERVES))).to(run.state.object)
        image = run.state.object[0] * turn
        found = (image - denoised(self._network, image, self._noise, self._lit)) * turn.conj()
        self._noise_part[0] = found - torch.fft.ifft2(torch.fft.fft2(found) * self._smooth)

    def add_derivative(self, by_object: Tensor, image: Tensor, box: tuple[slice, ...], share: float) -> None:
        by_object[box] += self._noise_part[box].conj() * (share * self._weight)


def denoised(network: Denoiser, image: Tensor, noise: Tensor, lit: Tensor) -> Tensor:
    """An image [H, W] without its noise, of the standard deviation ``noise`` in real and imaginary part, some lines at a time.

    Its root mean square where it is ``lit``, bool [H, W], is what the network takes for one.
    """
    level = image[lit].abs().square().mean().sqrt()
    seen, told = (image / level).to(torch.complex64), (noise / level).clamp_max(MOST_NOISE).float()
    lines = max(MARGIN, PIXELS // image.shape[-1] // MARGIN * MARGIN)
    parts = []
    for first in range(0, image.shape[-2], lines):
        above = min(first, MARGIN)
        some = slice(first - above, first + lines + MARGIN)
        parts.append(network(seen[None, some], told[None, some])[0, above : above + lines])
    return (torch.cat(parts) * level).to(image.dtype)
