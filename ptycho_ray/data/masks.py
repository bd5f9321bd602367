"""Masks of bad pixels: found by their names, their sense told by what they cover, placed on the frames where they fit.

Legend: H and W the detector's rows and columns.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, uniform_filter

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.mended import invalid_in
from ptycho_ray.data.opening import Content
from ptycho_ray.data.screening import as_frames, looked_at

WORDS = (
    "mask",
    "bad_pix",
    "badpix",
    "good_pix",
    "goodpix",
    "deadpix",
    "dead_pix",
    "hotpix",
    "hot_pix",
    "pixelmask",
    "valid_pix",
    "bpm",
    "weights",
)
NOT_MASKS = ("mask_applied", "mask_file", "maskfile", "probe_mask", "object_mask", "support", "roimask")
SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".tif", ".tiff", ".mat")
MOST_FILES = 2000
WORD = re.compile(r"(^|[^a-z])mask([^a-z]|$)")
"""The name of a file that looks like a mask: mask.npy, eiger_mask.tif, mask2.h5."""
FEW = 0.05
"""A side of a mask with fewer pixels than this is the bad one, whatever lies under it (hot pixels are bright)."""

SYMMETRIC = 0.2
"""A mean amplitude is symmetric about its middle if opposite pixels differ by less than this part of it."""


def mask_names(content: Content) -> list[str]:
    """Arrays of a file that look like a mask of the detector, by their names."""
    names = []
    for name in content.keys()[:2000]:
        last = name.rpartition("/")[2].lower()
        if any(word in last for word in WORDS) and not any(word in name.lower() for word in NOT_MASKS):
            names.append(name)
    return names


def find_mask(fields: FileContents, content: Content) -> None:
    """Take the mask of an open file that its format does not know; one that cannot be placed is kept in ``unused_masks``."""
    if fields.bad_pixels is not None:
        return
    used: list[str] = []
    for name in mask_names(content):
        shape = _shape_of(content, name)
        if shape is None or len(shape) not in (2, 3) or np.prod(shape, dtype=object) > 2**28:
            continue
        values = np.asarray(content.read(name))
        shape_of_frames = values.shape[-2:] if fields.frames is None else fields.frames.shape[1:]
        if (placed := as_mask(values, shape_of_frames)) is None:
            if "weights" not in name.lower():
                fields.unused_masks[name] = shape
            continue
        if "weights" in name.lower():
            placed = ~placed  # what has no weight
        used.append(name)
        if fields.bad_pixels is None:
            fields.bad_pixels = placed
        elif (np.mean(fields.bad_pixels) > 0.5) == (placed.mean() > 0.5):
            fields.bad_pixels = fields.bad_pixels & placed if placed.mean() > 0.5 else fields.bad_pixels | placed
        else:  # one names the good pixels and the other the bad ones
            bad = [each if np.mean(each) <= 0.5 else ~each for each in (np.asarray(fields.bad_pixels), placed)]
            fields.bad_pixels = bad[0] | bad[1]
    if used:
        kind = "those of the mask" if len(used) == 1 else "those that are bad in any of the masks"
        fields.notes.append(f"{content.path}: bad pixels are {kind} {', '.join(used)}")


def note_masks_beside(fields: FileContents, path: Path) -> None:
    """Name the files in the folder of a scan that look like a mask, if no mask is used: they are not."""
    if fields.bad_pixels is not None or fields.frames is None or path.is_dir():
        return
    beside = [
        other
        for other in itertools.islice(path.parent.iterdir(), MOST_FILES)
        if WORD.search(other.stem.lower()) and other.suffix.lower() in SUFFIXES and other != path and other.is_file()
    ]
    for other in sorted(beside)[:3]:
        fields.note(f"{path}: {other.name} beside it looks like a mask and was not used: --mask {other}")


def _shape_of(content: Content, name: str) -> tuple[int, ...] | None:
    if content.kind == "hdf5":
        dataset = content.file[name]  # type: ignore[attr-defined]
        return tuple(dataset.shape) if dataset.shape is not None and dataset.dtype.kind in "biuf" else None
    if content.kind == "npz":
        kind = content.dtype(name).kind  # type: ignore[attr-defined]
        return tuple(content.shape(name)) if kind in "biuf" else None  # type: ignore[attr-defined]
    values = np.asarray(content.read(name))
    return values.shape if values.dtype.kind in "biuf" else None


def as_mask(values: NDArray, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Pixels [H, W] that a stored mask names; None if it does not fit frames of ``shape``. Of a mask per frame, those that it
    names in any."""
    set_ = set_pixels(values)
    if set_.ndim == 3:
        set_ = np.asarray(set_[..., 0] if set_.shape[-1] == 1 else set_.any(axis=0))
    if set_.shape == tuple(shape):
        return set_
    return np.ascontiguousarray(set_.T) if set_.T.shape == tuple(shape) else None


def set_pixels(values: NDArray) -> NDArray[np.bool_]:
    """The pixels that a mask sets: those that are not zero; if none is zero, those that are unlike most (1 good, 2 bad). One
    that is no number is bad, whichever sense the others have."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    found, counts = np.unique(values[~missing], return_counts=True)
    usual = found[counts.argmax()] if len(found) and 0 not in found else 0
    set_ = np.asarray(values != usual) & ~missing
    known = set_[~missing]
    return set_ | missing if known.mean() <= 0.5 else set_


def settle_mask(fields: FileContents, path: Path) -> None:
    """Decide whether the set pixels of a mask are the good ones: they are if they cover most of the detector or of its light.
    Whatever is done is noted, and so is every mask that is not used."""
    for name, size in fields.unused_masks.items():
        sides = " x ".join(str(side) for side in size)
        fields.note(
            f"{path}: the mask {name} of {sides} pixels was not used, since nothing says where the frames lie on it; cut it to "
            "their size and give it with --mask FILE"
        )
    fields.unused_masks = {}
    if fields.bad_pixels is None or fields.frames is None:
        return
    marked = as_mask(np.asarray(fields.bad_pixels), fields.frames.shape[1:])
    if marked is None:
        sides = " x ".join(str(side) for side in np.shape(fields.bad_pixels))
        fields.note(
            f"{path}: the mask of {sides} pixels was not used, since the frames have another size (--mask FILE)"
        )
        fields.bad_pixels = None
        return
    covered = float(marked.mean())
    if covered == 0:
        fields.bad_pixels = None
        return
    light = _light_under(fields, marked, path)
    if covered == 1:
        fields.note(f"{path}: the mask covers the whole detector: it marks the good pixels, and no bad one")
        fields.bad_pixels = None
    elif covered > 1 - FEW or (covered >= FEW and light > 0.5):
        fields.note(
            f"{path}: the mask covers {covered:.1%} of the detector and {light:.0%} of its light: it marks the good pixels, "
            f"and {int((~marked).sum())} are bad"
        )
        fields.bad_pixels = ~marked
    else:
        fields.bad_pixels = marked


def filled(mean: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A mean amplitude [H, W] with its bad pixels filled: each from the pixel opposite to it about the zero frequency, where
    the rest of the amplitude is symmetric, else smoothly from those around it. Unchanged if no pixel is good."""
    if not bad.any() or bad.all():
        return mean
    back = np.ix_(*((2 * (side // 2) - np.arange(side)) % side for side in mean.shape))
    opposite, known = mean[back], ~bad[back]
    both = known & ~bad
    made, left = np.where(bad, 0.0, mean), bad
    if np.abs(mean - opposite)[both].sum() <= SYMMETRIC * mean[both].sum():
        made, left = np.where(bad & known, opposite, made), bad & ~known
    nearest = distance_transform_edt(left, return_distances=False, return_indices=True)
    made = made[tuple(nearest)]
    for _ in range(2 * max(mean.shape)):
        made = np.where(left, uniform_filter(made, size=3, mode="nearest"), made)
    return made


def _light_under(fields: FileContents, marked: NDArray[np.bool_], path: Path) -> float:
    """Part of the light of some frames that lies under the marked pixels."""
    assert fields.frames is not None
    source = as_frames(fields.frames, path, fields.frames_field)
    some = source.read(looked_at(source.shape, 16))
    some = np.where(invalid_in(some), 0, some).astype(np.float64)
    mean = np.sqrt(np.clip(some, 0, None)).mean(axis=0)
    total = float(mean.sum())
    return float(mean[marked].sum()) / total if total > 0 else 0.0
