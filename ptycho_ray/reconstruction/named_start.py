"""What the name of a starting image means."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptycho_ray.bundle import FILE_NAME, Bundle, load_bundle, names_only_a_model
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.reconstruction.images import find_image, read_image
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.reconstruction.weak_phase import weak_phase_image

FLAT, DIRECT = "flat", "direct"


def named_start(name: str | Path, scan: RawData) -> StitchedObject | Bundle | None:
    """'flat' is None, 'direct' the image of the scan as a weak phase object (``weak_phase.py``), a reconstruction
    (reconstruction.npz or its folder) its image, a scan the object in it, and a trained model its bundle: 'pretrained', a
    bundle, its folder or a model in MLflow. A folder that holds a model and an image names the model.

    Raises:
        InputError: 'direct' of a scan without a bright-field disc.
        ConfigurationError: there is nothing of that name.
        BundleError: the file holds neither an image nor a model.
    """
    place = Path(name)
    if str(name) == FLAT:
        return None
    if str(name) == DIRECT:
        return weak_phase_image(scan)
    if not names_only_a_model(name):
        if not place.exists():
            raise ConfigurationError(field="from", found=name, expected="'flat', 'direct', a trained model or an image")
        if find_image(place) is not None and not (place / FILE_NAME).exists():
            image = read_image(place)
            return StitchedObject(image.pixels, image.region.astype(np.float32), image.origin_px)
        if place.is_file() and place.suffix != ".zip":  # a scan that holds an object, as compare and evaluate take it
            image = read_image(place)
            return StitchedObject(image.pixels, (image.pixels != 0).astype(np.float32), image.origin_px)
    return load_bundle(name)
