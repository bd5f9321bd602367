"""A simulated scan as a microscope leaves it: the raster's frames and its step, and nothing else."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.simulation.electrons.electron_scan import ElectronScan

HDF5_SUFFIXES = (".emd", ".h5", ".hdf5")


def write_as_measured(simulated: ElectronScan, path: Path) -> None:
    """Write the frames [rows, columns, N, N] as EMD (py4DSTEM) with the stated step, or as NPY without it.

    Neither holds voltage, semi-angle, camera length, probe, true object or true positions.

    Raises:
        InputError: another suffix than .emd, .h5, .hdf5 and .npy.
    """
    suffix = path.suffix.lower()
    if suffix != ".npy" and suffix not in HDF5_SUFFIXES:
        raise InputError(file=path, field="output", found=f"the suffix {suffix!r}", expected=".emd, .h5 or .npy")
    with atomic_path(path) as temporary:
        if suffix == ".npy":
            with temporary.open("wb") as stream:
                np.save(stream, simulated.frames, allow_pickle=False)
        else:
            _write_emd(simulated, temporary)


def _write_emd(simulated: ElectronScan, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "version_minor": 0})
        root = file.create_group("datacube_root")
        root.attrs.update({"emd_group_type": "root", "python_class": "Root"})
        cube = root.create_group("datacube")
        cube.attrs.update({"emd_group_type": "array", "python_class": "DataCube"})
        side = simulated.spec.N
        data = cube.create_dataset(
            "data", data=simulated.frames, chunks=(1, simulated.frames.shape[1], side, side), compression="gzip"
        )
        data.attrs["units"] = "counts"
        step = simulated.spec.step_angstrom
        axes = [("Rx", step, "A"), ("Ry", step, "A"), ("Qx", 1.0, "pixels"), ("Qy", 1.0, "pixels")]
        for number, (name, length, unit) in enumerate(axes):
            axis = cube.create_dataset(f"dim{number}", data=np.array([0.0, length]))
            axis.attrs.update({"name": name, "units": unit})
