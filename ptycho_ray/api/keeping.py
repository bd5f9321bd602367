"""Writing things to files, and drawing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.api.judging import image_of
from ptycho_ray.data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.interactive import Probe, Reconstruction, as_scan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(thing: RawData | Reconstruction, path: str | Path, *, to: str | None = None) -> Path:
    """Write a scan or an image; the suffix says in which format (docs/formats.md), or ``to``, as for ``ptycho-ray convert``.

    A reconstruction becomes ``reconstruction.npz`` in a folder, or a file .npz or .h5 (a product of Ptychodus); under a name
    that ends in .zip its trained network is written.
    """
    path = Path(path)
    if isinstance(thing, RawData):
        thing.to_file(path, to)
        return path
    if isinstance(thing, Reconstruction) and to is None:
        return thing.save_model(path) if path.suffix == ".zip" else thing.save(path)
    found = f"to={to!r} for an image" if isinstance(thing, Reconstruction) else type(thing).__name__
    raise ConfigurationError(field="thing", found=found, expected="a scan (with or without to) or a reconstruction")


def show(thing: Any) -> Figure:
    """A figure of a scan (where it was lit), a probe, a reconstruction, an image or a file that holds one of them.

    In Jupyter scans, probes and reconstructions also show themselves; the figure is one of matplotlib, without pyplot.
    """
    from ptycho_ray.display.figures import plot_object, plot_positions, plot_probe
    from ptycho_ray.reconstruction.images import find_image

    if isinstance(thing, str | Path) and find_image(Path(thing)) is None:
        thing = as_scan(thing)
    if isinstance(thing, RawData):
        return plot_positions(thing.positions_px, pixel_size_m=thing.pixel_size_m)
    if isinstance(thing, Probe):
        return plot_probe(thing.modes, pixel_size_m=thing.pixel_size_m)
    if isinstance(thing, np.ndarray) and thing.ndim == 3 and np.iscomplexobj(thing):
        return plot_probe(thing)
    image = image_of(thing)
    pixel = thing.scan.pixel_size_m if isinstance(thing, Reconstruction) else None
    return plot_object(image.pixels, region=image.region, pixel_size_m=pixel)
