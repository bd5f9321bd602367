"""The report of ``ptycho-ray train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptycho_ray.config import TrainingConfig
from ptycho_ray.display.figures import plot_history, plot_object
from ptycho_ray.display.report import Section, write_report
from ptycho_ray.display.scan_section import scan_section
from ptycho_ray.display.uncertainty_report import uncertainty_section

if TYPE_CHECKING:
    import numpy as np

    from ptycho_ray.data import RawData


@dataclass(frozen=True)
class TrainedScan:
    """What became of one scan; ``name`` is its folder inside the output folder, empty if it is the only one."""

    name: str
    scan: RawData
    amplitude: np.ndarray | None
    phase: np.ndarray | None
    results: dict[str, Any]


def write_training_report(
    result: dict[str, Any],
    images: Sequence[TrainedScan],
    results: dict[str, Any],
    config: TrainingConfig,
    origin: dict[str, Any],
) -> None:
    """Write ``result["report"]``: images, curves, scans, settings and provenance of a training."""
    settings = dataclasses.asdict(config)
    figures = {name: result[name] for name in ("held_out_diffraction",) if name in result}
    sections = [
        *(section for image in images for section in _image_sections(image)),
        Section(
            "Training",
            facts={**result["training"], **figures},
            rows=result.get("scans", ()),
            pictures=[("Loss and learning rate.", plot_history(results["history"]))],
        ),
        *(_scan_section(image) for image in images),
        Section("Settings", facts={**settings.pop("model"), **settings}, folded=True),
        Section("Provenance", facts=origin, folded=True),
    ]
    write_report(result["report"], title=f"Training on {config.train_data_file}", sections=sections)


def _image_sections(image: TrainedScan) -> list[Section]:
    stitched = image.results["stitched"]
    picture = plot_object(stitched.image, region=stitched.covered(), pixel_size_m=image.scan.pixel_size_m)
    section = Section(
        f"Image {image.name}".strip(),
        f"Reconstruction of {image.scan.source} with the trained network.",
        pictures=[("Amplitude and phase.", picture)],
    )
    if stitched.phase_std is None:
        return [section]
    members = len(image.results["member_images"])
    return [section, uncertainty_section(stitched, members, image.scan.pixel_size_m)]


def _scan_section(image: TrainedScan) -> Section:
    probe = image.results["model_instance"].probe.detach().cpu().numpy()
    return scan_section(probe, image.scan.positions_px, image.scan.pixel_size_m, f"Scan {image.name}".strip())
