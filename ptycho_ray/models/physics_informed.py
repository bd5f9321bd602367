"""The network inside its physics: from photon counts to an object, and from the object back to photon counts."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptycho_ray.config import ModelConfig
from ptycho_ray.data.normalisation import Normalisation
from ptycho_ray.errors import InputError
from ptycho_ray.models.activations import START_AMPLITUDE
from ptycho_ray.models.conditioning import STEP_SCALE, probe_channels, retrieval_channels
from ptycho_ray.models.registry import build_network
from ptycho_ray.models.retrieval import better_explained, settled, single_shot_retrieval
from ptycho_ray.models.scan_positions import ScanPositions
from ptycho_ray.models.unrolled import PARTS, Downhill, UnrolledSolver, Windows, stabilised
from ptycho_ray.physics.blur import smooth_exit_wave
from ptycho_ray.physics.diffraction import centred, diffraction_intensity, illuminate, measure
from ptycho_ray.physics.merging import canvas_side, central_mask, extract_patches, merge_central_mask, merge_weighted
from ptycho_ray.physics.probe import effective_diameter_px, orthogonal_modes, soft_disc_mask
from ptycho_ray.physics.translation import centre_crop, place_patches

#: Least weight of a pixel in the overlap average, relative to the best illuminated one.
DARK_WEIGHT = 1e-3


@dataclass
class Prediction:
    """Result of one forward pass.

    Attributes:
        canvas: the patches of each group merged, complex [B, S, S]; its centre is the centre of the group.
        intensity: predicted photons, float32 [B, C, N, N].
        patches: the canvas as each pattern of the group sees it, complex [B, C, N, N].
    """

    canvas: Tensor
    intensity: Tensor
    patches: Tensor


class PhysicsInformedModel(nn.Module):
    """Network, probe and scale, with ``predicted photons = sum_modes |F(probe * scale * object)|**2``.

    Args:
        config: network and physics settings.
        normalisation: the constants of the training data; the input of the network is
            ``input_scale * sqrt(photons)`` and the scale of the object starts at ``object_scale``.
        probe: probe modes in sqrt(photons), complex [P, N, N].
        network: a network to share with other models; a new one if None.

    Attributes:
        network: complex patches, or amplitude and phase, from normalised diffraction amplitudes.
        log_object_scale: logarithm of the factor between the network's object and a transmission; a parameter.
        probe_parts: real and imaginary part of the probe, [P, N, N, 2]; a parameter.
        positions: learnt corrections of the scan's positions, or None. The caller applies them to the positions it passes.
        good_pixels: one where a detector pixel of the scan counts, [N, N], for networks that solve scans; None if all do.
        network_dtype: number format of the network's convolutions, None for 32 bits. The physics always uses 32 bits.
    """

    def __init__(
        self, config: ModelConfig, normalisation: Normalisation, probe: Tensor, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.normalisation = normalisation
        self.network = build_network(config) if network is None else network
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs
        self.network_dtype: torch.dtype | None = None
        self.log_object_scale = nn.Parameter(torch.tensor(float(normalisation.object_scale)).log())
        self.probe_parts = nn.Parameter(torch.view_as_real(probe.to(torch.complex64)).clone(), requires_grad=False)
        self.positions: ScanPositions | None = None
        self.good_pixels: Tensor | None
        self.register_buffer("good_pixels", None, persistent=False)

    @property
    def probe(self) -> Tensor:
        """Probe modes in sqrt(photons), complex [P, N, N], inside the aperture if there is one."""
        probe = torch.view_as_complex(self.probe_parts)
        if self.config.probe_mask:
            n = self.config.N
            probe = probe * soft_disc_mask(
                n, self.config.probe_mask_diameter or n / 2, self.config.probe_mask_sigma, probe.device
            )
        return probe

    @property
    def object_scale(self) -> Tensor:
        """Transmission per unit of the network's amplitude."""
        return self.log_object_scale.exp()

    @torch.no_grad()
    def orthogonalise_probe(self) -> None:
        """Orthogonalise the modes of the probe, the strongest first; the diffraction stays the same."""
        if len(self.probe_parts) > 1:
            modes = orthogonal_modes(torch.view_as_complex(self.probe_parts))
            self.probe_parts.copy_(torch.view_as_real(modes))

    def overlap_weight(self) -> Tensor:
        """Weight of each pixel of a patch: the probe's amplitude relative to its maximum, never exactly zero; [N, N]."""
        illumination = self.probe.detach().abs().square().sum(dim=0).sqrt()
        return illumination / illumination.max() + DARK_WEIGHT

    def network_patches(self, photons: Tensor) -> Tensor:
        """Complex patches in the network's units, [B, O, N, N], from photons [B, C, N, N]."""
        n, size = self.config.N, self.config.gridsize**2
        if photons.shape[1:] != (size, n, n):
            raise InputError(
                f"the network '{self.config.architecture}' cannot take these patterns",
                field="photons",
                found=f"shape {tuple(photons.shape)}",
                expected=f"(groups, gridsize**2 = {size}, N = {n}, {n})",
            )
        if self.config.solves_scans:  # each pattern by itself
            some = photons if self.config.object_big else photons[:, :1]
            alone = torch.zeros(some.shape[0] * some.shape[1], 1, 2, device=photons.device)
            return self._solved(some.flatten(0, 1)[:, None], alone, 0.0).view(some.shape)
        if self.config.probe_conditioning == "retrieval":
            return self._improved_patches(photons)
        inputs = self.normalisation.input_scale * photons.sqrt()
        if self.config.probe_conditioning == "channels":
            seen = probe_channels(self.probe.detach(), self.normalisation.input_scale)
            inputs = torch.cat([inputs, seen.expand(len(inputs), -1, -1, -1)], dim=1)
        return self._network_output(inputs)

    def retrieved(self, photons: Tensor) -> tuple[Tensor, Tensor]:
        """Phase retrieval of each single pattern, complex transmission [B, C, N, N], and its next step
        (``models/retrieval.py``)."""
        return single_shot_retrieval(photons, self.probe.detach(), self._level, self.config.retrieval_steps)

    def settled(self, photons: Tensor, patches: Tensor) -> Tensor:
        """Transmission patches [B, C, N, N] after the few steps of the retrieval that follow the network."""
        return settled(photons, self.probe.detach(), self._level, self.config.retrieval_steps, patches)

    @property
    def _level(self) -> float:
        """Mean amplitude of the transmission, from the photons with and without object."""
        return math.sqrt(self.normalisation.mean_photons / self.normalisation.probe_photons)

    def _improved_patches(self, photons: Tensor) -> Tensor:
        """The retrieved object, improved by the network; an untrained network changes nothing. Of its output maps,
        relative to their initial values, the first is added. The second extrapolates pixel by pixel: its real part
        away from the mean (or back to it), its imaginary part along the next step of the retrieval. When it is not trained,
        each pattern decides whether its object is taken (:func:`.retrieval.better_explained`).
        """
        level = self._level
        retrieved, step = self.retrieved(photons)
        maps = self._network_output(retrieval_channels(retrieved, step, self.probe.detach(), level)) - START_AMPLITUDE
        added, further = maps.chunk(2, dim=1)
        some = slice(added.shape[1])  # patterns of a group that are not merged have one object: that of the first
        retrieved, step = retrieved[:, some], step[:, some]
        change = level * added + further.real * (retrieved - level) + STEP_SCALE * further.imag * step
        improved = retrieved + change
        if not self.training:
            probe, steps = self.probe.detach(), self.config.retrieval_steps
            improved = better_explained(photons[:, some], probe, level, steps, retrieved, improved)
        return improved / self.normalisation.object_scale

    def _windows(self, relative: Tensor, largest_shift_px: float) -> Windows:
        """Where the patterns of groups lie on the canvases [B, S, S] around the centres of their groups."""
        groups, members = relative.shape[:2]
        side = canvas_side(self.config.N, largest_shift_px)
        corners = (side - self.config.N) // 2 + relative.reshape(-1, 2)
        canvas = torch.arange(groups, device=relative.device).repeat_interleave(members)
        return Windows(self.probe, corners, canvas, (groups, side, side))

    def _solved(self, photons: Tensor, relative: Tensor, largest_shift_px: float) -> Tensor:
        """The objects of groups [B, S, S] in the network's units, from photons [B, C, N, N] and positions [B, C, 2]."""
        parts = min(PARTS, photons.shape[1])
        windows = [self._windows(relative[:, part::parts], largest_shift_px) for part in range(parts)]
        good = None if self.good_pixels is None else torch.fft.ifftshift(self.good_pixels)
        descents = [
            functools.partial(where.descent, amplitudes=stabilised(photons[:, part::parts].flatten(0, 1)), good=good)
            for part, where in enumerate(windows)
        ]
        image = self.solve(descents, [where.light() for where in windows])
        return image / self.object_scale  # the kernel finds the scale; none is left to learn

    def solve(self, descents: Sequence[Downhill], lights: Sequence[Tensor]) -> Tensor:
        """What this model's network makes of patterns on canvases (:meth:`.unrolled.UnrolledSolver.solve`), [B, H, W]."""
        network: UnrolledSolver = self.network  # type: ignore[assignment]
        probe = self.probe.detach()
        diameter = effective_diameter_px(probe).clamp_min(self.config.N / 4).float()
        return network.solve(descents, lights, self._level, diameter, self._network_output)

    def _network_output(self, inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        fewer_bits = (
            nullcontext() if self.network_dtype is None else torch.autocast(inputs.device.type, self.network_dtype)
        )
        with fewer_bits:
            predicted = self.network(inputs)
        if isinstance(predicted, Tensor):
            return predicted
        amplitudes, phases = predicted
        return torch.polar(amplitudes.float(), phases.float())

    def merge(self, patches: Tensor, relative: Tensor, largest_shift_px: float) -> Tensor:
        """Merge the patches of each group on a canvas, [B, S, S]; see ``ptycho_ray.physics.merging``."""
        side = canvas_side(self.config.N, largest_shift_px)
        if not self.config.object_big:
            return place_patches(patches[:, 0], torch.zeros_like(relative[:, 0]), side)
        if self.config.merge == "central_mask":
            return merge_central_mask(patches, relative, side)
        if patches.shape[1] == 1:
            return patches[:, 0]
        return merge_weighted(patches, relative, self.overlap_weight(), side)

    def patches_at(self, canvas: Tensor, relative: Tensor) -> Tensor:
        """The patches [B, C, N, N] of a canvas [B, S, S] at the positions of its group."""
        n = self.config.N
        alone = canvas.shape[-1] == n and relative.shape[1] == 1
        return canvas[:, None] if alone else extract_patches(canvas, relative, n)

    def diffract(self, patches: Tensor) -> Tensor:
        """Photons [B, C, N, N] diffracted by transmission patches [B, C, N, N] under the probe."""
        exit_waves = illuminate(patches, self.probe)
        if self.config.gaussian_smoothing_sigma:
            exit_waves = smooth_exit_wave(exit_waves, self.config.gaussian_smoothing_sigma)
        return diffraction_intensity(exit_waves)

    def coverage(self, relative: Tensor, largest_shift_px: float) -> Tensor:
        """How well each pixel of the canvases of groups is illuminated: the sum of their overlap weights, [B, S, S]."""
        weight = self.overlap_weight()
        if self.config.merge == "central_mask":
            weight = weight * central_mask(self.config.N, weight.device)
        if not self.config.object_big:
            relative = torch.zeros_like(relative[:, :1])
        side = canvas_side(self.config.N, largest_shift_px)
        return place_patches(weight.expand(*relative.shape[:2], *weight.shape), relative, side).sum(dim=1)

    def flat_diffraction(self) -> Tensor:
        """Diffraction pattern of the probe without an object, in photons [N, N]."""
        return diffraction_intensity(self.probe)

    def forward(self, photons: Tensor, relative: Tensor, largest_shift_px: float) -> Prediction:
        """Predict object and diffraction of groups.

        Args:
            photons: measured photons, float32 [B, C, N, N].
            relative: position of each pattern minus the centre of its group, float32 [B, C, 2], pixels.
            largest_shift_px: a bound on ``abs(relative)`` that all batches share; it sets the side of the canvas.
        """
        if self.config.solves_scans:
            canvas = self.canvas(photons, relative, largest_shift_px)
            intensity = centred(measure(self._windows(relative, largest_shift_px).waves(canvas))).view(photons.shape)
            return Prediction(canvas, intensity, self.patches_at(canvas, relative))
        canvas = self.merge(self.network_patches(photons), relative, largest_shift_px)
        patches = self.object_scale * self.patches_at(canvas, relative)
        return Prediction(self.object_scale * canvas, self.diffract(patches), patches)

    def transmission_patches(self, photons: Tensor) -> Tensor:
        """The network's prediction for each pattern, complex transmission [B, O, N, N]; independent of positions."""
        return self.object_scale * self.network_patches(photons)

    def reconstruct(self, photons: Tensor, relative: Tensor, largest_shift_px: float) -> Tensor:
        """The merged object of each group, complex transmission [B, N, N], without its diffraction."""
        return centre_crop(self.canvas(photons, relative, largest_shift_px), self.config.N)

    def canvas(self, photons: Tensor, relative: Tensor, largest_shift_px: float) -> Tensor:
        """The merged object of each group on its whole canvas, complex transmission [B, S, S], without its diffraction."""
        if self.config.solves_scans:
            return self.object_scale * self._solved(photons, relative, largest_shift_px)
        return self.object_scale * self.merge(self.network_patches(photons), relative, largest_shift_px)
