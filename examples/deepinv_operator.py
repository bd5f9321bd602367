"""Ptychography as a forward operator of deepinv, so that its priors and solvers work on a scan of ours.

    python examples/deepinv_operator.py      # a total-variation reconstruction of the simulated scan of the package

deepinv (pip install deepinv) has images as real channels: an object is [B, 2, S, S], real and imaginary part; what is measured
is amplitudes [B, n, N, N].
"""

from __future__ import annotations

import deepinv
import numpy as np
import torch
from torch import Tensor

import ptycho_ray as pr
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.physics.merging import canvas_side
from ptycho_ray.physics.translation import cut_from_canvas


class Ptychography(deepinv.physics.Physics):
    """Amplitudes of the patterns that a scan would have of an object: ``sqrt(sum_p |F(P_p O_j)|**2)`` for each position j.

    The derivative that deepinv's solvers ask for is that of torch. The probe and the positions are those of the scan.

    Attributes:
        side: S of the square object, whose middle is that of the scanned field.
    """

    def __init__(self, scan: pr.RawData) -> None:
        super().__init__()
        low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
        relative = scan.positions_px - (low + high) / 2
        self.side = canvas_side(scan.N, float(np.abs(relative).max()))
        self.register_buffer("relative", torch.from_numpy(relative.astype(np.float32)))
        self.register_buffer("probe", torch.from_numpy(scan.probe))

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        canvas = torch.complex(x[:, 0], x[:, 1])
        patches = cut_from_canvas(canvas[:, None], self.relative, self.probe.shape[-1])
        return (diffraction_intensity(illuminate(patches, self.probe)) + 1e-9).sqrt()

    def flat(self) -> Tensor:
        """An object that does nothing, [1, 2, S, S]."""
        return torch.stack([torch.ones(self.side, self.side), torch.zeros(self.side, self.side)])[None]


def reconstruct(scan: pr.RawData, steps: int = 40, prior: float = 2e-3) -> tuple[Tensor, list[float]]:
    """An object [1, 2, S, S] by steps of Adam on the misfit of amplitudes, each followed by the proximal step of deepinv's
    total variation; and the relative misfit before each step."""
    physics, measured = Ptychography(scan), torch.from_numpy(scan.diff3d)[None]
    misfit, smooth = deepinv.optim.L2(), deepinv.optim.TVPrior(n_it_max=10)
    x = physics.flat().requires_grad_()
    adam, losses = torch.optim.Adam([x], lr=0.05), []
    for _ in range(steps):
        adam.zero_grad()
        distance = 2 * misfit(x, measured, physics).sum() / measured.square().sum()
        distance.backward()
        adam.step()
        with torch.no_grad():
            x.copy_(smooth.prox(x, gamma=prior))
        losses.append(distance.item())
    return x.detach(), losses


def main() -> None:
    scan = pr.load(pr.example("simulated"))
    found, losses = reconstruct(scan)
    pr.show(torch.complex(found[0, 0], found[0, 1]).numpy()).savefig("deepinv_star.png")
    print(f"misfit {losses[0]:.4f} -> {losses[-1]:.4f}; deepinv_star.png")


if __name__ == "__main__":
    main()
