"""What screening says of frames is what was measured in them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho_ray.data import load_data, screening
from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.placing import drop_missing, drop_spikes
from ptycho_ray.data.screening import LOOKED_AT, as_frames, looked_at, screen_frames
from ptycho_ray.errors import InputError


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


@pytest.mark.parametrize("kind", ["float32", "float64", "uint16", "uint32", "int64"])
@pytest.mark.parametrize("fault", [np.nan, np.inf, 2.0**32 - 1, "dark"])
def test_a_fault_of_a_frame_that_nobody_looked_at_is_refused_with_the_command_that_leaves_it_out(
    kind: str, fault: float | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "ALL_FRAMES_BYTES", 0)  # as of a stack above 1 GiB
    if kind == "uint16" and fault == 2.0**32 - 1:
        fault = 2.0**16 - 1
    if kind[0] != "f" and fault != "dark" and not np.isfinite(fault):
        return  # no whole number
    rng = np.random.default_rng(5)
    frames = rng.poisson(50, (2 * LOOKED_AT, 16, 16)).astype(kind)
    seen = 1 + looked_at((len(frames) - 1, 16, 16), LOOKED_AT)  # of those without the first
    first, second = (int(k) for k in np.setdiff1d(np.arange(1, len(frames)), seen)[:2])
    if fault == "dark":
        frames[[first, second]] = 0
    else:
        frames[[first, second], 5, 6] = fault
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["dp"], file["positions_px"] = frames, rng.uniform(20, 60, (len(frames), 2))
        file["probe"] = np.ones((16, 16), np.complex64)
    with pytest.raises(InputError, match=rf"Type: ptycho-ray info {path} --drop (0,)?{first},{second}$"):
        load_data(path, drop="0").pattern_energies()
    kept = load_data(path, drop=f"0,{first},{second}")
    assert np.isfinite(kept.pattern_energies()).all()
    assert len(kept) == len(frames) - 3
