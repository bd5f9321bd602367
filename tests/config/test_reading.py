"""What a user says about a file, as words and elsewhere."""

from __future__ import annotations

import tyro

from ptycho_ray.config.reading import Reading


def test_files_are_found_from_another_folder_and_names_of_arrays_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mask.npy", "table.csv"):
        (tmp_path / name).touch()
    reading = tyro.cli(
        Reading, args=["--mask", "mask.npy", "--positions", "y,x", "--companion", "table.csv", "--transpose"]
    )
    assert set(reading.files()) == {"mask", "companion"}
    there = reading.absolute()
    assert (there.mask, there.positions, there.companion) == (str(tmp_path / "mask.npy"), "y,x", tmp_path / "table.csv")
    monkeypatch.chdir("/")
    assert tyro.cli(Reading, args=there.words()) == there
