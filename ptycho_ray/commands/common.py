"""What several commands share."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ptycho_ray.config.reading import Reading
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import require_file

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ptycho_ray.config.sources import Resolved
    from ptycho_ray.data import RawData

Result = dict[str, Any]

SCAN, FILE, FOLDER, IMAGE = (tyro.conf.arg(metavar=name) for name in ("SCAN", "FILE", "FOLDER", "IMAGE"))


@dataclass(kw_only=True)
class Common:
    """Options that every command has."""

    json: bool = False
    """Print one JSON object on standard output and nothing else there."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(kw_only=True)
class DeviceOptions:
    """Options of commands that compute."""

    device: str | None = None
    """Device: auto, cpu, cuda, cuda:1 (the GPU of that number) or mps; by default 'auto', a GPU if there is one."""

    def resolved_device(self) -> torch.device:
        """That device; ConfigurationError if this machine does not have it."""
        from ptycho_ray.config import ExecutionConfig
        from ptycho_ray.training.device import resolve_device

        return resolve_device(ExecutionConfig(accelerator=self.device or "auto"))


@dataclass(kw_only=True)
class WorkerOptions:
    """Options of commands that can share one scan among several workers."""

    workers: Annotated[str | None, tyro.conf.arg(metavar="N")] = None
    """Share the solution among N workers on a Ray cluster; 'auto' takes all there are; 1:4 continues with the remaining ones
    of 4 when some are lost. The output folder must be one that all machines reach."""
    split: Literal["auto", "data", "tiles"] = "auto"
    """How they share it: every batch of a scan that each of them holds (data), or each a tile of the scan with its part of the
    object (tiles). 'auto' takes tiles if the scan outgrows a worker."""
    address: str | None = None
    """That cluster, as host:port or 'auto'; RAY_ADDRESS if not given, and without either one of this machine alone."""

    def of_cluster(self) -> dict[str, Any]:
        """The execution settings that they stand for; ConfigurationError for some that need --workers beside them."""
        if self.workers is None:
            if self.split != "auto":
                raise ConfigurationError(field="--split", found=self.split, expected="--workers N beside it")
            return {}
        return devices_of(self.workers) | {"address": self.address, "split": self.split}


@dataclass(kw_only=True)
class ReadingOptions(Common):
    """Options of commands that read a scan."""

    reading: Annotated[Reading, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=Reading)

    def inputs(self, *scans: Path | None) -> list[Path]:
        """All files that reading these scans takes, over which nothing may be written."""
        for scan in scans:
            if scan is not None and not scan.exists():  # said at once, before a numerical library is loaded
                require_file(scan)
        from ptycho_ray.data.inputs import files_of

        return [file for scan in scans if scan is not None for file in files_of(scan, self.reading)]


@dataclass(kw_only=True)
class ProductOptions(ReadingOptions):
    """Options of commands that can write a Ptychodus product."""

    product: Annotated[Path | None, FILE] = None
    """Also write the image as a Ptychodus product, which needs the geometry of the experiment."""

    def check_geometry(self, scan: RawData) -> None:
        """InputError if a product is wanted and neither the scan nor these options have its geometry."""
        if self.product is not None:
            from ptycho_ray.data.formats.ptychodus_folder import with_geometry

            how = self.reading
            with_geometry(scan, how.energy_eV, how.detector_distance_m, how.detector_pixel_m)

    def write_product(self, scan: RawData, image: np.ndarray, origin_px: Sequence[float], remark: str) -> Path | None:
        """Write ``image`` with the geometry of the scan or of these options; InputError if neither has it."""
        if self.product is None:
            return None
        from ptycho_ray.data.formats.ptychodus_folder import product_of_scan, with_geometry
        from ptycho_ray.data.formats.ptychodus_product import write_product

        how = self.reading
        scan = with_geometry(scan, how.energy_eV, how.detector_distance_m, how.detector_pixel_m)
        write_product(self.product, product_of_scan(scan, image, origin_px, remark, Path(scan.source).stem))
        return self.product


def devices_of(workers: str) -> dict[str, str]:
    """The execution settings that ``--workers N`` or ``--workers FEWEST:MOST`` stands for."""
    fewest, colon, most = workers.rpartition(":")
    return {"devices": most} | ({"min_devices": fewest} if colon else {})


def solver_settings(file: Path) -> dict[str, Any]:
    """The settings of the solver in a YAML file; ConfigurationError for one that does not exist."""
    from ptycho_ray.config.sources import load_yaml_config
    from ptycho_ray.config.types import unknown_setting
    from ptycho_ray.refinement.config import RefinementConfig

    settings, known = load_yaml_config(file), [field.name for field in dataclasses.fields(RefinementConfig)]
    for name in settings:
        if name not in known:
            raise unknown_setting(name, known, file)
    return settings


def tell(line: str) -> None:
    """Say what happens, on standard error."""
    print(line, file=sys.stderr, flush=True)


def settings_by_source(resolved: Resolved[Any]) -> dict[str, str]:
    """Where each setting came from, without those that have their default."""
    return {name: source for name, source in resolved.provenance.items() if source != "default"}
