"""A format: NPZ files of this laboratory, with ``frames`` (counts), ``stage_um`` (x and y) and ``pixel_nm``."""

from pathlib import Path

import numpy as np

from ptycho_ray.data import RawData
from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats import Format
from ptycho_ray.data.npz import NpzFile


def recognise(file: NpzFile) -> bool:
    return "stage_um" in file and "frames" in file


def read(file: NpzFile) -> FileContents:
    x, y = file.read("stage_um").T
    return FileContents(
        frames=file.read("frames"),
        frames_field="frames",
        domain="intensity",
        positions=np.stack([y, x], axis=1) * 1e-6,  # row and column, metres
        positions_in_metres=True,
        positions_unit=1e-6,
        probe=file.read_optional("beam"),
        pixel_size_m=(file.number("pixel_nm") or 0) * 1e-9 or None,
    )


def write(scan: RawData, path: Path) -> None:
    pixel = scan.pixel_size_m or 1e-8
    stage = scan.positions_px[:, ::-1] * pixel * 1e6
    frames = scan.patterns.intensity()
    np.savez_compressed(path, frames=frames, stage_um=stage, pixel_nm=pixel * 1e9, beam=scan.probe)


LAB_NPZ = Format(
    name="lab_npz",
    title="NPZ of the laboratory",
    kind=("npz",),
    recognise=recognise,
    read=read,
    write=write,
    holds=frozenset({"patterns", "positions", "probe", "probe modes", "pixel size"}),
)
