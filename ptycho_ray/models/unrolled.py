"""An unrolled solver: a few iterations on the object of overlapping patterns, with a small learned step in each.

An iteration is a step along the derivative of the amplitude misfit of every second pattern, the halves in turn, each pixel with
the step length that its light allows; its slowly varying phase is carried on, and a part of the last change is taken again. A
small network sees the image, these three, and how many photons fell on each pixel, and changes the image further. It is
convolutional and has no idea of a pattern: the same weights serve any number of patterns on a canvas of any size, any probe
and any side N. It is trained on groups of overlapping patterns and applied to whole scans.

Legend: B canvases, n patterns on all of them, P probe modes, N pattern side, [H, W] canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.small_unet import SmallUNet
from ptycho_ray.physics.diffraction import far_field, illuminate, measure
from ptycho_ray.physics.smooth_phase import over_relaxed, trusted

#: Parts of the patterns that are taken in turn.
PARTS = 2
#: Added to measured and predicted counts: the amplitude of a pixel without photons has no derivative.
STABILISER = 0.03
#: A pixel with less than this share of the best illumination moves as if it had that much.
DARK_SHARE = 1e-2
#: Share of the last change that is taken again, and the largest factor on a slowly varying phase. With them the untrained
#: solver converges fastest over dose and overlap (docs/experiments.md).
MOMENTUM, SMOOTH_GAIN = 0.7, 10.0
#: Amplitudes below this part of the mean have no phase that could be carried on.
FAINT = 0.1
#: Maps that the network sees: image, step and last change (two each), the phase carried on, the noise, the iteration.
INPUTS = 9
#: Maps that it draws: two changes (two each), and factors on the step, the last change, and the phase carried on. They are
#: bounded, so that step and momentum stay where iterations converge: without, training diverges.
OUTPUTS = 7
BOUND = 0.5
#: The weights of its last layer start at this part of the usual ones: an untrained network changes next to nothing.
START = 1e-3
#: Added to the mean square of a change, of which the first is zero.
SMALLEST = 1e-12
#: Most noise of a pixel, in units of the mean amplitude.
MOST_NOISE = 1.5


class Windows:
    """Where patterns lie on canvases, and the probe as it lies in the window of each.

    Args:
        probe: modes in sqrt(photons), complex [P, N, N].
        corners: first pixel of the window of each pattern on its canvas, [n, 2]; fractions of a pixel move the probe.
        canvas: the number of each pattern's canvas, int64 [n].
        shape: of all canvases, (B, H, W).
    """

    def __init__(self, probe: Tensor, corners: Tensor, canvas: Tensor, shape: tuple[int, int, int]) -> None:
        side, whole = probe.shape[-1], corners.detach().round()
        fraction, (row, column) = corners - whole, whole.long().unbind(dim=-1)
        along = torch.arange(side, device=probe.device)
        lines = (canvas * shape[1] + row)[:, None] + along
        self.pixels = (lines[:, :, None] * shape[2] + column[:, None, None] + along).flatten()
        self.shape = shape
        ramps = torch.exp(-2j * math.pi * torch.fft.fftfreq(side, device=probe.device) * fraction[..., None])
        moved = far_field(probe) * (ramps[:, 0, None, :, None] * ramps[:, 1, None, None, :])
        self.probe = torch.fft.ifft2(moved, norm="ortho")

    def waves(self, image: Tensor) -> Tensor:
        """Waves at the detector of every pattern, complex [n, P, N, N], zero frequency at the corner."""
        side = self.probe.shape[-1]
        return far_field(illuminate(image.flatten()[self.pixels].view(-1, side, side), self.probe))

    def descent(self, image: Tensor, amplitudes: Tensor, good: Tensor | None = None) -> Tensor:
        """Minus the derivative of half the amplitude misfit by the conjugate of the image, [B, H, W].

        Args:
            amplitudes: ``sqrt(counts + STABILISER)``, [n, N, N], zero frequency at the corner.
            good: one where a detector pixel counts, [N, N], zero frequency at the corner; all count if None.
        """
        waves = self.waves(image)
        excess = amplitudes * (measure(waves) + STABILISER).rsqrt() - 1
        excess = excess if good is None else excess * good
        back = torch.fft.ifft2(waves * excess[:, None], norm="ortho") * self.probe.conj()
        return self.added(back.sum(dim=1))

    def light(self) -> Tensor:
        """Photons that fall on each pixel of the canvases, [B, H, W]."""
        return self.added(self.probe.abs().square().sum(dim=1))

    def added(self, patches: Tensor) -> Tensor:
        """The sum of patches [n, N, N] where they lie, [B, H, W]."""
        canvas = patches.new_zeros(math.prod(self.shape))
        return canvas.index_add(0, self.pixels, patches.flatten()).view(self.shape)


def stabilised(photons: Tensor) -> Tensor:
    """The amplitudes that :meth:`Windows.descent` takes, from photons [..., N, N] with their zero frequency at N//2."""
    return torch.fft.ifftshift(photons, dim=(-2, -1)).add(STABILISER).sqrt()


#: From an image [B, H, W] to the sum of :meth:`Windows.descent` over some patterns.
Downhill = Callable[[Tensor], Tensor]


class UnrolledSolver(SmallUNet):
    """The learned step, the same in every iteration, and the iterations around it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(INPUTS, OUTPUTS, config.fno_width)
        self.iterations = config.unrolled_iterations
        with torch.no_grad():
            self.last.weight.mul_(START)

    def forward(self, seen: Tensor) -> Tensor:
        """What the network draws, [B, OUTPUTS, H, W], from what it sees, [B, INPUTS, H, W]."""
        return self.maps(seen)

    def solve(
        self,
        descents: Sequence[Downhill],
        lights: Sequence[Tensor],
        level: float,
        diameter_px: Tensor,
        draw: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The object that explains the patterns, complex transmission [B, H, W].

        Args:
            descents: of the parts of the patterns that are taken in turn.
            lights: the sums of :meth:`Windows.light` over the same parts.
            level: mean amplitude of the transmission, from which the iterations start.
            diameter_px: of the probe, real [].
            draw: the network, in the number format of its convolutions; as it is if None.
        """
        light = torch.stack(list(lights)).sum(dim=0)
        floor = (DARK_SHARE * light.amax(dim=(-2, -1), keepdim=True)).clamp_min(torch.finfo(light.dtype).tiny)
        curvatures = [part.maximum(light / len(lights)).maximum(floor) for part in lights]
        lit, trust = light / light.maximum(floor), trusted(light)
        noise = ((2 * light.maximum(floor)).rsqrt() / level).clamp_max(MOST_NOISE)
        image = previous = torch.full_like(light, level, dtype=torch.complex64)
        for iteration in range(self.iterations):
            part = iteration % len(descents)
            last = image - previous
            ahead = image + MOMENTUM * last
            step = descents[part](ahead) / curvatures[part]
            turned = (step * ahead.conj()).imag / (_square(ahead) + (FAINT * level) ** 2)
            further = over_relaxed(turned * trust, SMOOTH_GAIN, diameter_px)
            sizes = [_size(change, lit) for change in (step, last, further)]
            seen = [
                *_parts(ahead / level), *_parts(step / sizes[0]), *_parts(last / sizes[1]), further / sizes[2],
                noise.log() / 4, torch.full_like(noise, iteration / self.iterations),
            ]  # fmt: skip
            maps = (draw or self)(torch.stack(seen, dim=1)).div(BOUND).tanh().mul(BOUND)
            free = sizes[0] * torch.complex(maps[:, 0], maps[:, 1]) + level * noise * torch.complex(
                maps[:, 2], maps[:, 3]
            )
            change = step + lit * (free + maps[:, 4] * step + (1 - MOMENTUM) * maps[:, 5] * last)
            further = further * (1 + maps[:, 6])
            previous, image = image, (ahead + change) * torch.polar(torch.ones_like(further), further)
        return image


def _parts(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.real, image.imag


def _square(image: Tensor) -> Tensor:
    return image.real.square() + image.imag.square() if image.is_complex() else image.square()


def _size(change: Tensor, lit: Tensor) -> Tensor:
    """Root mean square of a change where there is light, [B, 1, 1]."""
    squares = (lit * _square(change)).sum(dim=(-2, -1), keepdim=True)
    return (squares / lit.sum(dim=(-2, -1), keepdim=True) + SMALLEST).sqrt()
