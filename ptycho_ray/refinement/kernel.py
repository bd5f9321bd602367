"""The update kernel: forward model and its adjoint, written by hand, for one batch of patterns.

The forward model is that of ``physics/diffraction.py``, which a test holds it to; it is repeated here because its adjoint
needs what lies between.

The loss of a pattern is ``sum (sqrt(I + c) - sqrt(counts + c))**2`` with
``I = scale**2 * sum_p |propagate(O * P_p)|**2 + background``. For photon counts this is the Poisson likelihood with its
variance stabilised. Without c, pixels of a few photons and fewer pull the intensities down; Anscombe's 3/8 (1948) is for
brighter ones (``docs/experiments.md``). Where most pixels counted nothing they are pulled down with any c, and the loss is half
the Poisson deviance of ``counts + c`` at ``I + c``, whose mean is least at the true I for any c. Derivatives by complex
unknowns are Wirtinger derivatives ``dL/dz``, whose conjugate is the direction of steepest ascent: so the whole adjoint needs no
conjugation but one at the detector. Those by real unknowns are the ordinary ones.

The probe lives in Fourier space, where the sub-pixel part of a position is a separable phase ramp and where the gradient with
respect to position and eigenmode weights is an inner product with what the probe's gradient needs anyway: four transforms a
pattern in all, two if positions are whole and the probe rests.

Legend: b patterns of a batch, S slices, P probe modes, K eigenmodes, N pattern side, [H, W] canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_ray.physics.propagation import FreeSpace, Propagator
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.measured_amplitude import Amplitude
from ptycho_ray.refinement.patch_geometry import Geometry

#: Below any count, but it keeps divisions finite, in photons.
EPSILON = 1e-9
#: c of the loss for photon counts, in photons.
STABILISER = 0.03
#: The same where the loss is the Poisson likelihood itself.
OF_POISSON = 0.003
#: Displacement in pixels by which derivatives by the position are taken as differences.
SMALL_PX = 0.05


@dataclass
class Waves:
    """What the forward model passed through, for the adjoint.

    Attributes:
        rows: numbers of the patterns, int64 [b].
        lines: flat index of the first pixel of every line of every window [b * N].
        probes: shifted probe modes, [b, P, N, N].
        patches: patch of each slice, each [b, 1, N, N].
        incident: wave in front of each slice after the first, [b, P, N, N].
        detector: wave at the detector, [b, P, N, N].
        intensity: photons, [b, N, N].
        between: from a slice to the next; None for a thin object.
    """

    rows: Tensor
    lines: Tensor
    probes: Tensor
    patches: list[Tensor]
    incident: list[Tensor]
    detector: Tensor
    intensity: Tensor
    between: FreeSpace | None = None


@dataclass
class ByProbe:
    """Derivatives by everything that belongs to the illumination; sums over the batch unless a pattern axis is named.

    Attributes:
        spectrum: [P, N, N].
        position_px: real [b, 2].
        eigen_spectrum: [K, N, N].
        eigen_weight: real [b, K].
    """

    spectrum: Tensor
    position_px: Tensor
    eigen_spectrum: Tensor | None
    eigen_weight: Tensor | None


class Kernel:
    """Forward model and adjoint of a scan.

    Args:
        amplitude: square root of the measured photons, real [n, N, N], in the detector order of ``propagator``.
        geometry: where the patterns lie.
        propagator: from the exit wave to the detector.
        good: one where a detector pixel counts, zero where not, real [N, N]; all count if None.
        between: propagation from a slice to the next; None for a thin object.
        stabiliser: c of the loss; STABILISER if the amplitudes are of photon counts.
        poisson: the loss is the Poisson likelihood itself, for far less than a photon a pixel.
    """

    def __init__(
        self,
        amplitude: Amplitude,
        geometry: Geometry,
        propagator: Propagator,
        *,
        good: Tensor | None = None,
        between: FreeSpace | None = None,
        stabiliser: float = 0.0,
        poisson: bool = False,
    ) -> None:
        self.amplitude, self.geometry, self.propagator = amplitude, geometry, propagator
        self.good, self.between, self.stabiliser, self.poisson = good, between, stabiliser, poisson
        frequency = geometry.frequency
        turn = -2j * math.pi * frequency.to(geometry.dtype)
        self._slopes = torch.stack([turn[:, None].expand(-1, len(turn)), turn.expand(len(turn), -1)])  # [2, N, N]

    @property
    def constant(self) -> float:
        """c of the loss."""
        return OF_POISSON if self.poisson else self.stabiliser

    # -- forward -----------------------------------------------------------------------------------------------------

    def probes(self, state: Estimate, rows: Tensor) -> Tensor:
        """Probe modes as they lie in the window of each pattern, [b, P, N, N]."""
        ramps = self.geometry.ramps(rows)
        spectrum = state.probe_spectrum
        if state.eigen_spectrum.shape[0]:
            weight = state.eigen_weight.index_select(0, rows).to(spectrum.dtype)
            varied = torch.tensordot(weight, state.eigen_spectrum, 1)[:, None]  # [b, 1, N, N]
            first = spectrum[:1] + varied
            spectrum = (
                first if len(spectrum) == 1 else torch.cat([first, spectrum[1:].expand(len(rows), -1, -1, -1)], dim=1)
            )
        moved = (spectrum * ramps[:, 0, None, :, None]).mul_(ramps[:, 1, None, None, :])
        return torch.fft.ifft2(moved, norm="ortho")

    def gather(self, image: Tensor, lines: Tensor) -> Tensor:
        """Windows [b, N, N] of a canvas [H, W]: whole lines are copied, no pixel index is made."""
        side = self.geometry.side
        overlapping = image.as_strided((image.numel() - side + 1, side), (1, 1), image.storage_offset())
        return overlapping.index_select(0, lines).view(-1, side, side)

    def forward(self, state: Estimate, rows: Tensor) -> Waves:
        """Predict the patterns ``rows``, int64 [b]."""
        lines = self.geometry.lines(rows)
        probes = self.probes(state, rows)
        patches = [self.gather(image, lines)[:, None] for image in state.object]
        wave = probes * patches[0]
        incident = []
        between = self.between
        if between is not None and state.slice_shift_px is not None:
            between = between.shifted(state.slice_shift_px)
        for patch in patches[1:]:
            assert between is not None
            incident.append(between.forward(wave))
            wave = incident[-1] * patch
        detector = self.propagator.forward(wave)
        intensity = (detector.real.square().addcmul_(detector.imag, detector.imag)).sum(dim=1)
        scale = state.scale.index_select(0, rows)
        intensity.mul_(scale.square()[:, None, None])
        if state.background is not None:
            intensity.add_(state.background)
        return Waves(rows, lines, probes, patches, incident, detector, intensity, between)

    # -- at the detector ---------------------------------------------------------------------------------------------

    def compare(self, waves: Waves, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each pattern [b], its derivative by the intensity [b, N, N], and by the detector wave [b, P, N, N].

        The detector wave is used up.
        """
        loss, by_intensity = self._deviance(waves) if self.poisson else self._amplitude_misfit(waves)
        squared = scale.index_select(0, waves.rows).square()[:, None, None]
        by_wave = waves.detector.conj_physical_().mul_((by_intensity * squared)[:, None])
        return loss, by_intensity, by_wave

    def _amplitude_misfit(self, waves: Waves) -> tuple[Tensor, Tensor]:
        measured, root = self._roots(waves)
        difference = root - measured
        if self.good is not None:
            difference.mul_(self.good)
        return difference.square().sum(dim=(-2, -1)), difference.div_(root)

    def _deviance(self, waves: Waves) -> tuple[Tensor, Tensor]:
        counts = self.amplitude.index_select(0, waves.rows).square_().add_(OF_POISSON)
        rate = waves.intensity.add(OF_POISSON)
        ratio = counts / rate
        by_intensity = 0.5 * (1 - ratio)
        loss = 0.5 * (rate - counts + counts * ratio.log_())
        if self.good is not None:
            loss, by_intensity = loss.mul_(self.good), by_intensity.mul_(self.good)
        return loss.sum(dim=(-2, -1)), by_intensity

    # -- adjoint -----------------------------------------------------------------------------------------------------

    def back_to_object(self, waves: Waves, by_wave: Tensor) -> tuple[list[Tensor], Tensor]:
        """Derivatives by the patch of each slice, each [b, N, N], and by the wave behind the first slice [b, P, N, N].

        The waves in front of the slices after the first are used up.
        """
        behind = self.propagator.transpose(by_wave)
        by_patch: list[Tensor] = []
        for patch, incident in zip(reversed(waves.patches[1:]), reversed(waves.incident), strict=True):
            assert waves.between is not None
            by_patch.append(_sum_of_modes(incident.mul_(behind)))
            behind = waves.between.transpose(behind.mul_(patch))
        by_patch.append(_sum_of_modes(waves.probes * behind))
        return by_patch[::-1], behind

    def back_to_probe(self, state: Estimate, waves: Waves, behind: Tensor) -> ByProbe:
        """Derivatives by probe, positions and eigenmodes from that by the wave behind the first slice."""
        batch, _, side, _ = waves.probes.shape
        eigen = state.eigen_spectrum
        spectrum = torch.fft.ifft2(waves.patches[0] * behind, norm="ortho")
        ramps = self.geometry.ramps(waves.rows)
        spectrum.mul_(ramps[:, 0, None, :, None]).mul_(ramps[:, 1, None, None, :])
        sloped = (state.probe_spectrum * self._slopes[:, None]).view(2, -1)
        position = 2 * torch.mm(spectrum.view(batch, -1), sloped.T).real
        by_eigen = by_weight = None
        if len(eigen):
            weight = state.eigen_weight.index_select(0, waves.rows)
            first = spectrum[:, 0].reshape(batch, -1)
            by_eigen = torch.mm(weight.to(first.dtype).T, first).view(-1, side, side)
            by_weight = 2 * torch.mm(first, eigen.reshape(len(eigen), -1).T).real
            sloped = (eigen * self._slopes[:, None]).view(2 * len(eigen), -1)
            position += 2 * (torch.mm(first, sloped.T).real.view(batch, 2, -1) * weight[:, None]).sum(dim=-1)
        return ByProbe(spectrum.sum(dim=0), position, by_eigen, by_weight)

    @torch.no_grad()
    def position_slopes(self, state: Estimate, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted amplitudes [b, N, N] and their derivatives by the two coordinates of the position [b, 2, N, N]."""
        geometry = self.geometry
        now = self.forward(state, rows).intensity.sqrt_()
        slopes = []
        for axis in range(2):
            step = torch.zeros(len(rows), 2, dtype=now.dtype, device=now.device)
            step[:, axis] = SMALL_PX
            geometry.shift(rows, step)
            slopes.append((self.forward(state, rows).intensity.sqrt_() - now) / SMALL_PX)
            geometry.shift(rows, -step)
        return now, torch.stack(slopes, dim=1)

    def scatter(self, canvas: Tensor, lines: Tensor, patches: Tensor) -> None:
        """Add patches [b, N, N] to a canvas [H, W] where they lie."""
        canvas.view(-1).index_add_(0, self.geometry.pixels(lines), patches.reshape(-1))

    def best_scale(self, waves: Waves) -> Tensor:
        """The factor on each pattern's amplitude by which its loss is least, [b]; take it before :meth:`compare`.

        Without a stabiliser it is exact, with one it is a step of Gauss and Newton, for the Poisson likelihood a step of the
        iteration that ends there. Any other factor than that of the loss itself would drift: object and probe would undo it in
        every iteration.
        """
        if self.poisson:
            weight = waves.intensity / (waves.intensity + OF_POISSON)
            weight = weight if self.good is None else weight * self.good
            counts = self.amplitude.index_select(0, waves.rows).square_()
            photons = (weight * waves.intensity).sum(dim=(-2, -1)).clamp_min(EPSILON)
            return ((weight * counts).sum(dim=(-2, -1)) / photons).sqrt()
        measured, root = self._roots(waves)
        slope = waves.intensity / root
        if self.good is not None:
            slope = slope * self.good
        missing = (slope * (measured - root)).sum(dim=(-2, -1))
        return 1 + missing / slope.square().sum(dim=(-2, -1)).clamp_min(EPSILON)

    def _roots(self, waves: Waves) -> tuple[Tensor, Tensor]:
        """What the loss compares, each [b, N, N]: ``sqrt(counts + c)`` and ``sqrt(I + c)``."""
        measured = self.amplitude.index_select(0, waves.rows)
        if self.stabiliser:
            measured = measured.square_().add_(self.stabiliser).sqrt_()
        return measured, waves.intensity.add(self.stabiliser + EPSILON).sqrt_()


def _sum_of_modes(waves: Tensor) -> Tensor:
    """[b, P, N, N] summed over the modes, [b, N, N]."""
    return waves[:, 0] if waves.shape[1] == 1 else waves.sum(dim=1)
