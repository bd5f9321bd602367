"""natural128_wheel: crops of the images that ``scikit-image`` ships, amplitude and phase made of one grey value.

The published set ``natural_patches128_fixedprobe_v1`` (8000 / 1000 / 1000 crops of 16 images) with two of its twelve
training images replaced, since they are no part of the wheel, or are its validation image: ``eagle`` by the left image of
``stereo_motorcycle``, ``cat`` by ``immunohistochemistry``. Validation and test crops are the published ones to the pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage import data as skimage_data

SIDE = 128
COUNTS = {"train": 8000, "val": 1000, "test": 1000}
#: Images of a split, in the order in which they were dealt out.
IMAGES = {
    "train": (
        "immunohistochemistry", "grass", "coins", "gravel", "page", "coffee", "clock", "retina", "hubble_deep_field",
        "moon", "camera", "stereo_motorcycle",
    ),
    "val": ("chelsea", "rocket"),
    "test": ("astronaut", "brick"),
}  # fmt: skip
LUMINANCE = (0.2126, 0.7152, 0.0722)
CROP_SEED = 4242


def grey_image(name: str) -> NDArray[np.float64]:
    """An image of the wheel as grey values from 0 to 1, [H, W]."""
    image = getattr(skimage_data, name)()
    image = image[0] if isinstance(image, tuple) else image  # the left one of a pair
    values = image.astype(np.float64) / np.iinfo(image.dtype).max
    return values[..., :3] @ np.array(LUMINANCE) if values.ndim == 3 else values


def crops(split: str) -> NDArray[np.float64]:
    """The crops of a split, [n, 128, 128], image after image."""
    seeds = dict(zip(COUNTS, np.random.default_rng(CROP_SEED).integers(0, 2**63 - 1, len(COUNTS)), strict=True))
    of_images = np.random.default_rng(int(seeds[split])).integers(0, 2**63 - 1, len(IMAGES[split]))
    share, more = divmod(COUNTS[split], len(IMAGES[split]))
    found = []
    for k, (name, seed) in enumerate(zip(IMAGES[split], of_images, strict=True)):
        image, rng = grey_image(name), np.random.default_rng(int(seed))
        count = share + (k < more)
        rows, columns = (rng.integers(0, side - SIDE + 1, count) for side in image.shape)
        found.extend(image[r : r + SIDE, c : c + SIDE] for r, c in zip(rows, columns, strict=True))
    return np.stack(found)


def transmission(grey: NDArray[np.floating]) -> NDArray[np.complex128]:
    """The object that a grey value stands for: amplitude 0.5 + 0.5 x, phase pi (x - 0.5)."""
    return (0.5 + 0.5 * grey) * np.exp(1j * np.pi * (grey - 0.5))
