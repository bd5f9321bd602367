"""What the values of frames are: counts or their roots, divided by a gain or a monitor, with exchanged rows and columns.

Legend: n frames, H and W the detector's rows and columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.mended import TurnedFrames, held_like, invalid_in
from ptycho_ray.data.patterns import Domain
from ptycho_ray.data.screening import as_frames, looked_at
from ptycho_ray.data.turning import DECISIVELY, curls_of
from ptycho_ray.errors import InputError, to_type

FRAMES_LOOKED_AT = 12
WHOLE = 0.01
"""How nearly values are whole multiples of a quantum, relative to it."""
LARGEST_LOGARITHM = 25.0


def quantum(values: NDArray) -> float | None:
    """The smallest positive value, if all others are whole multiples of it; None if they are not, or too few to tell."""
    positive = np.unique(values[values > 0].astype(np.float64))
    if not len(positive):
        return None
    smallest = float(positive[0])
    ratios = positive[positive < 50 * smallest] / smallest
    whole = np.round(ratios)
    if len(ratios) < 5 or len(np.unique(whole)) < 5 or whole[1] > 3:
        return None
    return smallest if float(np.mean(np.abs(ratios - whole) < WHOLE)) > 0.99 else None


def quantity_by_values(frames: NDArray) -> tuple[Domain | None, NDArray[np.float64]]:
    """Whether frames [k, H, W] hold multiples of a quantum (intensity) or the roots of such (amplitude), judged frame by frame;
    None if neither. And the quanta, one for each frame that has one."""
    quanta: dict[Domain, list[float]] = {"intensity": [], "amplitude": []}
    for frame in frames:
        values = frame[np.isfinite(frame)]
        for domain in quanta:
            made = values if domain == "intensity" else np.square(values.astype(np.float64))
            if (found := quantum(made)) is not None:
                quanta[domain].append(found)
                break
    for domain, found_here in quanta.items():
        if len(found_here) > 0.5 * len(frames):
            return domain, np.array(found_here)
    return None, np.zeros(0)


def _logarithm_in(frames: NDArray) -> str | None:
    """How counts were computed from frames [k, H, W] that hold their logarithms; None if they do not."""
    values = frames[np.isfinite(frames) & (frames > 0)].astype(np.float64)
    if not values.size or values.max() > LARGEST_LOGARITHM:
        return None
    for formula, counts in (("10**v - 1", 10**values - 1), ("exp(v) - 1", np.expm1(values))):
        some = counts[counts < 100]
        if len(np.unique(np.rint(some))) >= 5 and abs((quantum(counts) or 0) - 1) < WHOLE:
            return formula
    return None


def settle_quantity(fields: FileContents, path: Path, probe_is_trusted: bool = True) -> None:
    """Whether the frames are intensities or amplitudes: their values tell before their name does. What differs from the name,
    and intensities that were divided by a gain or a monitor, are noted."""
    if fields.frames is None:
        return
    source = as_frames(fields.frames, path, fields.frames_field)
    rows = looked_at(source.shape, FRAMES_LOOKED_AT)
    frames = source.read(rows)
    frames = np.where(invalid_in(frames), 0, frames)
    named: Domain | None = fields.domain
    told, quanta = quantity_by_values(frames)
    if told is None and (formula := _logarithm_in(frames)) is not None:
        raise InputError(
            file=path,
            field=fields.frames_field,
            found=f"logarithms v of counts: {formula} are whole numbers",
            expected="the counts, or their roots",
            hint=f"Store {formula}, or take them as they are. {to_type(path, '--domain intensity')}",
        )
    if told is None and probe_is_trusted:
        told = _by_probe(fields, frames, named or "amplitude")
    if told is None:
        return
    name = named or "amplitude"  # what a stack without a name is taken for
    if told != name and not (named is None and frames.dtype.kind in "iu"):
        how = (
            "their squares are whole multiples of a quantum"
            if told == "amplitude"
            else "their values are those of counts"
        )
        if named is not None or not np.array_equal(frames, np.rint(frames)):
            fields.note(
                f"{path}: {fields.frames_field} holds {told}, not {name}: {how} (--domain {name} if they are not)"
            )
    fields.domain = told
    if told != "intensity" or not quanta.size:
        return
    if np.ptp(quanta) > 1e-3 * quanta.mean():
        fields.note(
            f"{path}: the frames were divided by a monitor each (quanta {quanta.min():.4g} to {quanta.max():.4g}): used as "
            "they are, but they are no counts"
        )
        fields.counts_are_photons = False
    elif abs(quanta.mean() - 1) > 1e-3:
        fields.note(f"{path}: intensities are whole multiples of {quanta.mean():.4g}, the gain: used as they are")
        fields.counts_are_photons = False


def _by_probe(fields: FileContents, frames: NDArray, named: Domain) -> Domain | None:
    """The quantity whose mean energy agrees with the probe's, where that of the named one is far from it."""
    if fields.probe is None or not fields.probe_scale_known or fields.frames is None:
        return None
    energy = float(np.sum(np.abs(np.asarray(fields.probe, dtype=np.complex128)) ** 2))
    values = np.clip(frames, 0, None).astype(np.float64)
    ratio: dict[Domain, float] = {
        "intensity": energy / max(float(values.sum(axis=(1, 2)).mean()), 1e-300),
        "amplitude": energy / max(float((values**2).sum(axis=(1, 2)).mean()), 1e-300),
    }
    other: Domain = "intensity" if named == "amplitude" else "amplitude"
    agrees, differs = 0.7 < ratio[other] < 1.6, not 0.05 < ratio[named] < 20
    return other if agrees and differs else None


def settle_turn(fields: FileContents, path: Path) -> None:
    """Exchange rows and columns of frames where the scan tells that they are exchanged; a line says what was done, or that
    nothing tells. Of frames that MATLAB may have written it is enough that it tells clearly. Others are turned if it tells
    decisively and no probe or object of the file could be turned against them; else they are only named."""
    if fields.frames is None or fields.positions is None or fields.far_field is False:
        return
    source = as_frames(fields.frames, path, fields.frames_field)
    bad = None if fields.bad_pixels is None else np.asarray(fields.bad_pixels) != 0
    curls = curls_of(source, bad, fields.positions)
    told = None if curls is None else curls.exchanged()
    alone = fields.probe is None and fields.object_truth is None and not fields.electrons
    if told and curls is not None and (fields.written_by_matlab or (alone and curls.exchanged(**DECISIVELY))):
        fields.frames = held_like(TurnedFrames(source, transpose=True), source)
        fields.bad_pixels = None if bad is None else bad.T
        fields.note(
            f"{path}: rows and columns of the frames were exchanged, as the scan tells: the deflection of the beam has a curl "
            f"{1 / curls.exchanged_to_stored:.2g} times smaller so ('ptycho-ray orient' sees mirrored axes, too; --axes nyx "
            "leaves them as stored)"
        )
    elif told:
        fields.note(
            f"{path}: rows and columns of the frames seem exchanged against the scan: 'ptycho-ray orient' decides, and "
            "--transpose exchanges them"
        )
    elif told is None and fields.written_by_matlab:
        fields.note(
            f"{path}: frames of this format may have rows and columns exchanged, and the scan does not tell: read as stored "
            "(--transpose exchanges them)"
        )
