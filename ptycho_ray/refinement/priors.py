"""The prior that an object is smooth: what takes the noise from an image of few electrons.

The sum over all pixels of ``photons / 2 * (length * |difference of neighbours|)**2`` joins the loss. Where the patterns tell
about a pixel what its photons tell, that lets the spatial frequency f through by ``1 / (1 + (2 pi f length)**2)``: what is
finer than the length is damped. The same along the depth, where patterns tell little: slices that differ, differ because the
patterns say so.
"""

from __future__ import annotations

from torch import Tensor

from ptycho_ray.refinement.run import Run

#: Share of the brightest illumination from which on a pixel is taken for lit.
LIT = 0.3


class Smoothness:
    """The prior of one run.

    Args:
        run: its illumination at the start says how many photons a pixel has.
    """

    def __init__(self, run: Run) -> None:
        config = run.config
        light = run.illumination()
        photons = float(light[light > LIT * light.max()].median())
        self.lateral = 0.5 * photons * config.smoothing_length_px**2
        self.depth = 0.5 * photons * config.depth_smoothing_slices**2

    @property
    def curvature(self) -> float:
        """The largest, in the units in which that of the loss is the photons of a pixel."""
        return 8 * self.lateral + 4 * self.depth

    def add_derivative(self, by_object: Tensor, image: Tensor, share: float) -> None:
        """Add to ``by_object`` its derivative by the object [S, H, W], times ``share``."""
        for weight, axes in ((self.lateral, (-2, -1)), (self.depth, (0,))):
            for axis in axes if weight else ():
                across = image.diff(dim=axis).conj_physical_().mul_(share * weight)
                length = across.shape[axis]
                by_object.narrow(axis, 1, length).add_(across)
                by_object.narrow(axis, 0, length).sub_(across)
