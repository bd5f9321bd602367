"""``ptycho_ray.yaml``: what the files of a beamline do not state, in their folder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ptycho_ray.config.sources import load_yaml_config
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.formats.ptychodus_folder import with_geometry
from ptycho_ray.errors import ConfigurationError, InputError

BEAMLINE_FILE = "ptycho_ray.yaml"


@dataclass(frozen=True)
class Beamline:
    """The content of the file; every entry is optional.

    Attributes:
        energy_eV, detector_distance_m, detector_pixel_m: the far-field geometry.
        model: path of a trained model; with ``service`` the name of one there.
        service: URL of a reconstruction service.
        file: where this was read; None if there is no such file.
    """

    energy_eV: float | None = None
    detector_distance_m: float | None = None
    detector_pixel_m: float | None = None
    model: str | None = None
    service: str | None = None
    file: Path | None = None

    def geometry_words(self) -> list[str]:
        """The geometry as options of ``ptycho-ray``."""
        words = []
        for name in ("energy_eV", "detector_distance_m", "detector_pixel_m"):
            value = getattr(self, name)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", repr(value)]
        return words


def read_beamline(folder: Path) -> Beamline:
    """The file in a folder or the nearest one above; ConfigurationError where it is wrong."""
    file = next(
        (place / BEAMLINE_FILE for place in (folder, *folder.parents) if (place / BEAMLINE_FILE).is_file()), None
    )
    if file is None:
        return Beamline()
    values = load_yaml_config(file)
    kinds = {field.name: field for field in fields(Beamline) if field.name != "file"}
    for name, value in values.items():
        if name not in kinds:
            raise ConfigurationError(file=file, field=name, found="an unknown entry", expected=", ".join(kinds))
        if name in ("model", "service"):
            values[name] = str(value)
            continue
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            values[name] = 0.0
        if not values[name] > 0:
            raise ConfigurationError(file=file, field=name, found=repr(value), expected="a number above 0")
    if values.get("model") and not values.get("service"):
        values["model"] = str((file.parent / values["model"]).absolute())
    return Beamline(**values, file=file)


def load_scan(path: Path) -> RawData:
    """A scan of any format that we read, with the geometry of its file or of ``ptycho_ray.yaml``.

    Raises:
        InputError: the format is unknown, or the geometry that Ptychodus needs is not stated.
    """
    beamline = read_beamline(path.parent)
    scan = load_data(path)
    try:
        return with_geometry(scan, beamline.energy_eV, beamline.detector_distance_m, beamline.detector_pixel_m)
    except InputError as error:
        raise InputError(
            file=path,
            field=error.field,
            found="none in the file",
            expected=f"{BEAMLINE_FILE} next to it with energy_eV, detector_distance_m and detector_pixel_m",
        ) from None
