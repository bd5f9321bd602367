"""What a scan shows before anything is solved: its virtual images and the integrated centre of mass, in seconds.

Legend: R and C rows and columns of the raster, N pattern side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.scan import Scan
from ptycho_ray.data.scan_grid import ScanGrid, scan_grid
from ptycho_ray.data.virtual_images import VirtualImages, virtual_images
from ptycho_ray.physics.phase_gradient import curl, divergence, integrate_gradient

#: Waves of the integrated phase longer than so many times the field are damped.
LONGEST = 2.0


@dataclass(frozen=True)
class FirstLook:
    """Images of a scan on its raster, float64 [R, C]; ``grid.upright`` shows them as they lie before the detector.

    Attributes:
        grid: the raster.
        virtual: the numbers of each pattern.
        images: by name what the detectors that there are saw, in shares of what was detected: 'bright field', 'annular bright
            field', 'dark field', 'high-angle dark field'; without a disc 'transmission', relative to its mean.
        centre_px: centre of mass (row, column) relative to that of the mean pattern, detector pixels [R, C, 2].
        phase: its integral, in radian.
        divergence, curl: of the gradient of the phase under the probe, radian per object pixel squared.
    """

    grid: ScanGrid
    virtual: VirtualImages
    images: dict[str, NDArray[np.float64]]
    centre_px: NDArray[np.float64]
    phase: NDArray[np.float64]
    divergence: NDArray[np.float64]
    curl: NDArray[np.float64]

    @property
    def curl_share(self) -> float:
        """Standard deviation of the curl over that of the divergence: about one means noise, or a detector turned against the
        scan; a true gradient has none."""
        return float(np.std(self.curl)) / max(float(np.std(self.divergence)), 1e-300)

    def figures(self) -> dict[str, Any]:
        """What the images say in numbers; lengths in pixels of the object (raster) or of the detector."""
        disc, bright = self.virtual.disc, self.virtual.bright
        return {
            "raster": list(self.grid.shape) if self.grid.point is not None else None,
            "step_px": list(self.grid.step_px),
            "disc_radius_px": None if disc is None else disc.radius_px,
            "disc_centre_px": None if disc is None else list(disc.centre_px),
            "bright_field_share": None if bright is None else float(bright.mean()),
            "centre_of_mass_px": float(np.sqrt(np.mean(self.virtual.centre_px**2))),
            "curl_over_divergence": self.curl_share,
        }


def first_look(scan: Scan) -> FirstLook:
    """All images of a scan that need no solver; one pass over its frames, in bounded memory."""
    seen, grid = virtual_images(scan), scan_grid(scan.positions_px)
    named = {
        "bright field": seen.bright,
        "annular bright field": seen.annular_bright,
        "dark field": seen.dark,
        "high-angle dark field": seen.high_angle,
    }
    images = {name: grid.image(values) for name, values in named.items() if values is not None}
    if seen.disc is None:
        images["transmission"] = grid.image(seen.total / seen.total.mean())
    step = grid.step_px
    gradient = grid.image(seen.phase_gradient @ grid.turn.T)
    longest = LONGEST * max(size * each for size, each in zip(grid.shape, step, strict=True))
    phase = integrate_gradient(gradient, step, longest=longest)
    return FirstLook(
        grid, seen, images, grid.image(seen.centre_px), phase, divergence(gradient, step), curl(gradient, step)
    )
