"""From raw detector frames to patterns: crop, centre, bin, mask, background, orientation; frames on disk stay there.

Legend: n frames, H and W the detector's rows and columns, N the side of the patterns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.mended import invalid_in
from ptycho_ray.data.patterns import ArrayFrames, FrameSource
from ptycho_ray.errors import InputError


@dataclass(frozen=True)
class FrameSteps:
    """What is done to each detector frame, in this order.

    transpose, flip_rows, flip_columns   orientation of the detector
    centre       (row, column) of the direct beam after that; it is moved to pixel N//2
    side         side of the window that is cut out, in detector pixels; where it leaves the detector, pixels are bad
    binning      number of pixels summed in each direction; N = side / binning
    background   counts subtracted from every detector pixel; results below zero are set to zero
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    centre: tuple[float, float] = (0.0, 0.0)
    side: int = 0
    binning: int = 1
    background: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary, for the provenance of a file."""
        return asdict(self)

    @property
    def N(self) -> int:
        """Side of the patterns."""
        return self.side // self.binning

    def oriented(self, frames: NDArray) -> NDArray:
        """Frames [..., H, W] after the orientation."""
        frames = frames.swapaxes(-1, -2) if self.transpose else frames
        frames = frames[..., ::-1, :] if self.flip_rows else frames
        return frames[..., ::-1] if self.flip_columns else frames

    def oriented_probe(self, probe: NDArray) -> NDArray:
        """Probe modes [..., N, N] after the orientation: mirrored about pixel N//2, which stays where it is."""
        probe = probe.swapaxes(-1, -2) if self.transpose else probe
        for axis, flip in ((-2, self.flip_rows), (-1, self.flip_columns)):
            if flip:
                probe = np.roll(np.flip(probe, axis), 1 - probe.shape[axis] % 2, axis)
        return probe

    def window(self, frames: NDArray, outside: Any = 0) -> NDArray:
        """The window [..., side, side] of oriented frames [..., H, W], filled with ``outside`` where it leaves them."""
        # Binned pixel N//2 is made of those from binning * (N//2) on: the beam belongs in their middle.
        beam = self.binning * (self.N // 2) + (self.binning - 1) // 2
        corner = [round(middle) - beam for middle in self.centre]
        made = np.full((*frames.shape[:-2], self.side, self.side), outside, dtype=frames.dtype)
        source, target = [], []
        for edge, length in zip(corner, frames.shape[-2:], strict=True):
            low, high = max(edge, 0), min(edge + self.side, length)
            if high <= low:
                raise InputError(
                    field="centre", found=f"{self.centre}", expected=f"a beam on the detector of {frames.shape[-2:]}"
                )
            source.append(slice(low, high))
            target.append(slice(low - edge, high - edge))
        made[..., target[0], target[1]] = frames[..., source[0], source[1]]
        return made

    def binned(self, frames: NDArray) -> NDArray:
        """Frames [..., side, side] with ``binning`` pixels summed in each direction, float32."""
        b, N = self.binning, self.N
        return frames.reshape(*frames.shape[:-2], N, b, N, b).sum(axis=(-3, -1), dtype=np.float32)

    def apply(self, frames: NDArray, bad: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Patterns [..., N, N] of raw frames [..., H, W]; pixels that are ``bad`` [H, W] (as stored) do not contribute."""
        values = self.window(self.oriented(np.where(bad, 0, frames).astype(np.float32)))
        if self.background:
            values = np.maximum(values - np.float32(self.background), 0)
        return self.binned(values)

    def mask(self, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bad pixels [N, N] of the patterns: those to which any bad or missing detector pixel contributes."""
        window = self.window(self.oriented(bad), outside=True)
        return self.binned(window) > 0


class PreparedFrames:
    """A FrameSource that prepares frames as they are read; ``amplitude`` says that they hold square roots."""

    in_memory = False
    dtype = np.dtype(np.float32)

    def __init__(self, source: FrameSource, steps: FrameSteps, bad: NDArray[np.bool_], amplitude: bool = False) -> None:
        self.source, self.steps, self.bad, self.amplitude = source, steps, bad, amplitude
        self.shape: tuple[int, int, int] = (source.shape[0], steps.N, steps.N)
        self.labels = source.labels

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        return self.steps.apply(clean(self.source.read(indices), self.amplitude), self.bad)

    def take(self, indices: NDArray[np.int64]) -> PreparedFrames:
        return PreparedFrames(self.source.take(indices), self.steps, self.bad, self.amplitude)


class WindowedFrames:
    """A FrameSource of the window that ``steps`` cut out of frames, in their own type; zero where it leaves the detector."""

    in_memory = False

    def __init__(self, source: FrameSource, steps: FrameSteps) -> None:
        self.source, self.steps, self.dtype = source, steps, source.dtype
        self.shape: tuple[int, int, int] = (source.shape[0], steps.side, steps.side)
        self.labels = source.labels

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        return self.steps.window(self.source.read(indices))

    def take(self, indices: NDArray[np.int64]) -> WindowedFrames:
        return WindowedFrames(self.source.take(indices), self.steps)


def as_source(frames: NDArray | FrameSource) -> FrameSource:
    """Frames as a source."""
    return ArrayFrames(frames) if isinstance(frames, np.ndarray) else frames


def clean(frames: NDArray, amplitude: bool = False) -> NDArray[np.float32]:
    """Intensities as float32, with noise below zero and values that are no measurement set to zero."""
    values = np.maximum(np.where(invalid_in(frames), 0, frames).astype(np.float32), 0)
    return np.square(values) if amplitude else values


def cropped_probe(probe: NDArray, N: int) -> NDArray[np.complex64]:
    """The probe [P, M, M] for the middle N pixels of the detector: the same width in metres on coarser (finer) pixels."""
    M = probe.shape[-1]
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    made = np.zeros((*probe.shape[:-2], N, N), dtype=np.complex128)
    side = min(M, N)
    source, target = (np.s_[size // 2 - side // 2 : size // 2 - side // 2 + side] for size in (M, N))
    made[..., target, target] = spectrum[..., source, source]
    wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(made, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    return wave.astype(np.complex64)


def narrowed_probe(probe: NDArray, N: int) -> NDArray[np.complex64]:
    """The probe [P, M, M] for binned detector pixels: the middle N of its pixels, which keep their size."""
    M = probe.shape[-1]
    made = np.zeros((*probe.shape[:-2], N, N), dtype=np.complex64)
    side = min(M, N)
    source, target = (np.s_[size // 2 - side // 2 : size // 2 - side // 2 + side] for size in (M, N))
    made[..., target, target] = probe[..., source, source]
    return made
