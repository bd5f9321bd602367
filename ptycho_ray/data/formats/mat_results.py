"""Results of PtychoShelves in MATLAB files (``Niter*.mat``), version 5 or 7.3 (which is HDF5 with its axes reversed).

``object`` (H, W[, layers]), ``probe`` (H, W, modes[, variations]), ``p.lambda``, ``p.dx_spec``, and
``outputs.probe_positions`` (n, 2), which are (x, y) in object pixels about the middle of the object. No patterns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M, FileContents, table_of_pairs
from ptycho_ray.data.formats.far_field_geometry import half_pixel
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.opening import Content
from ptycho_ray.errors import InputError


def recognise(content: Content) -> bool:
    return "outputs/probe_positions" in content and "object" in content and "probe" in content


def _read(content: Content, *names: str) -> NDArray:
    array = content.read(*names)
    return array.T if content.kind == "hdf5" else array


def read(content: Content) -> FileContents:
    """Layers of the object are multiplied, the first variation of the probe is kept."""
    image, probe = _read(content, "object"), _read(content, "probe")
    if image.ndim not in (2, 3) or probe.ndim not in (2, 3, 4):
        raise InputError(
            file=content.path,
            field="object, probe",
            found=f"shapes {image.shape} and {probe.shape}",
            expected="(H, W[, layers]) and (N, N[, modes[, variations]])",
        )
    image = image.prod(axis=2) if image.ndim == 3 else image
    probe = probe[..., 0] if probe.ndim == 4 else probe
    probe = probe[None] if probe.ndim == 2 else np.moveaxis(probe, 2, 0)
    places = table_of_pairs(_read(content, "outputs/probe_positions"), content.path, "outputs/probe_positions")
    positions = places[:, ::-1] + (np.array(image.shape) - 1) / 2 + half_pixel(probe.shape[-1])
    wavelength = content.number("p/lambda")
    spacing = content.read_optional("p/dx_spec")
    return FileContents(
        positions=positions,
        probe=np.ascontiguousarray(probe),
        probe_scale_known=False,
        object_truth=np.ascontiguousarray(image),
        pixel_size_m=None if spacing is None or not spacing.size else float(np.ravel(spacing)[0]),
        energy_eV=PLANCK_TIMES_LIGHT_EV_M / wavelength if wavelength else None,
    )


PTYCHOSHELVES_RESULT = Format("ptychoshelves", "PtychoShelves result", ("mat", "hdf5"), recognise, read)
