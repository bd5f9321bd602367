"""What screening says of frames is what was measured in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.placing import drop_missing, drop_spikes
from ptycho_ray.data.screening import LOOKED_AT, as_frames, looked_at, screen_frames


def test_negative_noise_of_a_frame_that_is_not_looked_at_is_counted() -> None:
    rng = np.random.default_rng(3)
    frames = rng.poisson(50, (3 * LOOKED_AT, 16, 16)).astype(np.float32) + 0.25
    unseen = int(np.setdiff1d(np.arange(len(frames)), looked_at(frames.shape, LOOKED_AT))[0])
    frames[unseen, 3, 4:7] = (-1.5, -2.75, -0.5)
    fields = FileContents(format="test", frames=frames)
    with pytest.warns(UserWarning, match="negative"):
        screen_frames(fields, Path("scan.npz"))
    (line,) = [note for note in fields.notes if "negative" in note]
    assert f"{100 * 3 / frames.size:.2g} % of the values are negative, down to -2.75" in line
    assert fields.frames is not None
    assert as_frames(fields.frames, Path("scan.npz"), "frames").read(np.array([unseen])).min() >= 0


def test_frames_are_named_by_their_numbers_in_the_file_whatever_has_been_left_out() -> None:
    rng = np.random.default_rng(4)
    frames = rng.poisson(50, (40, 16, 16)).astype(np.float32)
    frames[[3, 20]] = 0
    positions = np.stack(np.meshgrid(np.arange(8.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    positions[30] = 1e6
    positions[35] = np.nan
    fields = FileContents(frames=frames, positions=positions)
    for step, numbers in ((screen_frames, "3, 20"), (drop_missing, "35"), (drop_spikes, "30")):
        with pytest.warns(UserWarning, match=f"left out: {numbers}$"):
            step(fields, Path("scan.npz"))
    np.testing.assert_array_equal(fields.frame_numbers, np.setdiff1d(np.arange(40), [3, 20, 30, 35]))
