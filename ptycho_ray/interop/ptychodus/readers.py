"""File readers of Ptychodus for formats that only ptycho_ray supports (or that Ptychodus reads without geometry)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ptychodus.api.diffraction import (
    DiffractionDataset,
    DiffractionDatasetLayoutNode,
    DiffractionFileReader,
    DiffractionMetadata,
    SimpleDiffractionArray,
    SimpleDiffractionDataset,
)
from ptychodus.api.geometry import ImageExtent, PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product as HostProduct
from ptychodus.api.product import ProductFileReader, ProductMetadata

from ptycho_ray.data.formats.far_field_geometry import as_photons
from ptycho_ray.data.formats.ptychodus_folder import detector_pixel_of, position_indexes, start_product
from ptycho_ray.interop.ptychodus.beamline import load_scan

#: The same reader under the name of each format, since people look for that; it tells formats apart by content.
FORMATS = {
    "PtychoRay_PtychoPINN": "PtychoPINN Scans via ptycho_ray (*.npz)",
    "PtychoRay_PTYD": "ptypy Data via ptycho_ray (*.ptyd)",
    "PtychoRay_CXI": "Raw CXI via ptycho_ray (*.cxi)",
    "PtychoRay_Tike": "tike Arrays via ptycho_ray (*.npz *.bz2)",
}
#: One of them, for a file of any format.
ANY_SCAN = "PtychoRay_PtychoPINN"


class PtychoRayDiffractionFileReader(DiffractionFileReader):
    """Patterns in counts, with the zero frequency in the middle, and the geometry."""

    def read(self, file_path: Path) -> DiffractionDataset:
        scan = load_scan(file_path)
        patterns = scan.patterns.intensity()
        if scan.counts_are_photons:
            patterns = np.rint(patterns).astype(np.uint32)
        size = detector_pixel_of(scan)
        metadata = DiffractionMetadata(
            num_patterns_per_array=[len(scan)],
            pattern_dtype=patterns.dtype,
            detector_extent=ImageExtent(width_px=scan.N, height_px=scan.N),
            detector_distance_m=scan.detector_distance_m,
            detector_pixel_geometry=PixelGeometry(width_m=size, height_m=size),
            photon_energy_eV=as_photons(scan).energy_eV,
            file_path=file_path,
        )
        tree = DiffractionDatasetLayoutNode.create_root()
        tree.add_child(file_path.stem, type(patterns).__name__, f"{patterns.dtype}{patterns.shape}")
        array = SimpleDiffractionArray(label=file_path.stem, indexes=position_indexes(scan), patterns=patterns)
        return SimpleDiffractionDataset(metadata, tree, [array], bad_pixels=scan.bad_pixels)


class PtychoRayProductFileReader(ProductFileReader):
    """Positions, probe and object of a scan in metres; ones for an object that the file does not have."""

    def read(self, file_path: Path) -> HostProduct:
        product = start_product(load_scan(file_path))
        metadata = product.metadata
        height, width = product.pixel_m
        return HostProduct(
            metadata=ProductMetadata(
                name=file_path.stem,
                comments=metadata["comments"],
                detector_distance_m=metadata["detector_object_distance_m"],
                photon_energy_eV=metadata["photon_energy_eV"],
                probe_photon_count=metadata["probe_photon_count"],
                exposure_time_s=0.0,
                mass_attenuation_m2_per_kg=0.0,
                tomography_angle_deg=0.0,
            ),
            probe_positions=ProbePositionSequence(
                [
                    ProbePosition(int(index), float(column), float(row))
                    for index, (row, column) in zip(product.indexes, product.positions_m, strict=True)
                ]
            ),
            probes=ProbeSequence(product.probe, None, PixelGeometry(width_m=width, height_m=height)),
            object_=Object(
                product.object,
                PixelGeometry(width_m=width, height_m=height),
                ObjectCenter(x_m=product.centre_m[1], y_m=product.centre_m[0]),
            ),
            losses=[],
        )


def register_readers(registry: Any) -> None:
    """Register the readers under the name of each format."""
    for simple, displayed in FORMATS.items():
        registry.diffraction_file_readers.register_plugin(
            PtychoRayDiffractionFileReader(), simple_name=simple, display_name=displayed
        )
        registry.register_product_file_reader_with_adapters(
            PtychoRayProductFileReader(), simple_name=simple, display_name=displayed
        )
