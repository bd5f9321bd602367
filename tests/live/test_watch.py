"""Live sources, alone and into a running service: each ends in the image that the whole scan gives."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import free_port

from ptycho_ray.client import Client
from ptycho_ray.commands.cli import main
from ptycho_ray.errors import InputError, MissingFileError
from ptycho_ray.files import atomic_path
from ptycho_ray.live.growing_files import Ending, Frames, Names, folder_frames, growing_frames, wire_type

PIECE = 12
QUICK = Ending(idle_s=2.0)


def pieces(scan: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    counts = np.rint(scan.patterns.intensity()).astype(np.uint16)
    return [
        (scan.positions_px[first : first + PIECE], counts[first : first + PIECE])
        for first in range(0, len(scan), PIECE)
    ]


def fill_folder(folder: Path, scan: Any) -> None:
    folder.mkdir(exist_ok=True)
    for number, (positions, patterns) in enumerate(pieces(scan)):
        if number % 2:
            with atomic_path(folder / f"{number:03d}.h5") as temporary, h5py.File(temporary, "w") as file:
                file["patterns"], file["positions"] = patterns, positions
        else:
            with atomic_path(folder / f"{number:03d}.npz") as temporary, temporary.open("wb") as stream:
                np.savez(stream, patterns=patterns, positions=positions)
        time.sleep(0.1)


def grow_file(path: Path, scan: Any, *, complete: bool = True) -> None:
    n = scan.N
    with h5py.File(path, "w", libver="latest") as file:
        frames = file.create_dataset("entry/data", (0, n, n), np.uint16, maxshape=(None, n, n), chunks=(1, n, n))
        y = file.create_dataset("y", (0,), float, maxshape=(None,), chunks=(64,))
        x = file.create_dataset("x", (0,), float, maxshape=(None,), chunks=(64,))
        done = file.create_dataset("complete", data=0)
        file.swmr_mode = True
        for positions, patterns in pieces(scan):
            end = len(frames) + len(patterns)
            for dataset, values in ((frames, patterns), (y, positions[:, 0]), (x, positions[:, 1])):
                dataset.resize(end, axis=0)  # patterns before positions, as detectors do
                dataset[end - len(patterns) :] = values
                dataset.flush()
                time.sleep(0.02)
        done[()] = int(complete)
        done.flush()
        time.sleep(0.5)


def meanwhile(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    return thread


def check(found: list[Frames], scan: Any) -> None:
    np.testing.assert_array_equal(np.concatenate([some.positions for some in found]), scan.positions_px)
    expected = np.concatenate([patterns for _, patterns in pieces(scan)])
    np.testing.assert_array_equal(np.concatenate([some.patterns for some in found]), expected)


def test_a_folder_that_fills(tmp_path: Path, small_scan: Any) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    thread = meanwhile(fill_folder, tmp_path, small_scan)
    check(list(folder_frames(tmp_path, Names(), Ending(len(small_scan), 20))), small_scan)
    thread.join()
    first = list(folder_frames(tmp_path, Names(), Ending(30, 20)))
    assert sum(len(some.patterns) for some in first) == 30


def test_a_file_in_the_folder_that_stays_broken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "0.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(InputError, match=r"0\.h5"):
        list(folder_frames(tmp_path, Names(), Ending(idle_s=1)))
    (tmp_path / "0.h5").unlink()
    np.savez(tmp_path / "0.npz", patterns=np.zeros((2, 8, 8)), positions=np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"\(k, 2\)"):
        list(folder_frames(tmp_path, Names(), Ending(idle_s=1)))
    with pytest.raises(MissingFileError):
        list(folder_frames(tmp_path / "none", Names(), QUICK))


def test_a_file_that_grows(tmp_path: Path, small_scan: Any) -> None:
    thread = meanwhile(grow_file, tmp_path / "scan.h5", small_scan)
    check(list(growing_frames(tmp_path / "scan.h5", Names("entry/data", "y,x"), Ending(idle_s=20))), small_scan)
    thread.join()


def test_a_file_that_stops_growing_or_never_comes(tmp_path: Path, small_scan: Any) -> None:
    grow_file(tmp_path / "scan.h5", small_scan, complete=False)
    check(list(growing_frames(tmp_path / "scan.h5", Names("entry/data", "y,x"), QUICK)), small_scan)
    with pytest.raises(MissingFileError):
        list(growing_frames(tmp_path / "none.h5", Names(), Ending(idle_s=0.3)))
    with pytest.raises(InputError, match="entry"):
        list(growing_frames(tmp_path / "scan.h5", Names("data"), QUICK))


@pytest.mark.parametrize("name", ["scan.h5", "scan.npz"])
def test_files_with_other_names_say_which_to_type(tmp_path: Path, small_scan: Any, name: str) -> None:
    small_scan.to_file(tmp_path / name)
    place, frames = (tmp_path, folder_frames) if name == "scan.npz" else (tmp_path / name, growing_frames)
    with pytest.raises(InputError, match="--patterns diff3d --positions ycoords,xcoords --domain amplitude"):
        list(frames(place, Names(), Ending(idle_s=1)))


def test_while_a_file_is_written_nothing_but_its_arrays_is_read(
    tmp_path: Path, small_scan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    monkeypatch.setattr("ptycho_ray.live.growing_files._likely_names", lambda path: looked.append(path))
    small_scan.to_file(tmp_path / "scan.h5")
    with pytest.raises(InputError, match="expected a dataset"):
        list(growing_frames(tmp_path / "scan.h5", Names(), Ending(idle_s=1)))
    assert looked == [tmp_path / "scan.h5"]  # once, at the end


def test_types_on_the_wire() -> None:
    assert [wire_type(np.dtype(kind), "x") for kind in ("u2", "f8", "i8")] == ["uint16", "float32", "int32"]
    with pytest.raises(InputError, match="complex"):
        wire_type(np.dtype(complex), "x")


def test_every_source_ends_in_the_image_of_the_whole_scan(
    one_service: Any, tmp_path: Path, small_scan: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command, into a running service."""
    from ptycho_ray.data import RawData

    pytest.importorskip("zmq", reason="pyzmq is not installed")
    pytest.importorskip("cbor2", reason="cbor2 is not installed")
    monkeypatch.setenv("PTYCHO_RAY_TOKEN", one_service.tokens["submit"])
    counts = np.concatenate([patterns for _, patterns in pieces(small_scan)]).astype(np.float32)
    whole = RawData(small_scan.xcoords, small_scan.ycoords, None, None, counts, small_scan.probe, domain="intensity")
    whole.to_file(tmp_path / "whole.npz")
    with Client(one_service.url, one_service.tokens["submit"]) as client:
        expected = np.abs(client.reconstruct(tmp_path / "whole.npz", model="tiny").arrays()["object"])
    frames, places = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    folder, file = tmp_path / "frames", tmp_path / "scan.h5"
    folder.mkdir()
    sent = ["replay", str(tmp_path / "whole.npz"), "--bind", frames, "--positions-bind", places, "--wait-s", "300"]
    for source, work, words in (
        (folder, lambda: fill_folder(folder, small_scan), ["--n-patterns", str(len(small_scan))]),
        (file, lambda: grow_file(file, small_scan), ["--patterns", "entry/data", "--positions", "y,x"]),
        (
            frames,
            lambda: subprocess.run([sys.executable, "-m", "ptycho_ray", *sent], check=True),
            ["--positions-from", places],
        ),
    ):
        thread = meanwhile(work)
        output = tmp_path / "image.npz"
        words = [*words, "--model", "tiny", "--probe", str(tmp_path / "whole.npz"), "--idle-s", "120"]
        words += ["--url", one_service.url, "--output", str(output), "--overwrite", "--json"]
        assert main(["watch", str(source), *words]) == 0
        thread.join()
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert told[-1]["frames"]["joined"] == len(small_scan)
        with np.load(output) as image:
            assert image["object"].shape == expected.shape
            np.testing.assert_allclose(np.abs(image["object"]), expected, rtol=1e-4, atol=1e-4)


def test_nothing_comes(one_service: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_RAY_TOKEN", one_service.tokens["submit"])
    words = ["--url", one_service.url, "--output", str(tmp_path / "image.npz")]
    assert main(["watch", str(tmp_path), *words, "--idle-s", "0.5"]) == 2
    assert main(["watch", str(tmp_path), "--output", "image.txt"]) == 2
    (tmp_path / "image.npz").touch()
    assert main(["watch", str(tmp_path), *words, "--idle-s", "0.5"]) == 2
    assert "--overwrite" in capsys.readouterr().err
