"""Many scans on a command line, and the folders of their results."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_ray.commands.scan_list import folder_names, scans_of
from ptycho_ray.errors import MissingFileError


def test_files_folders_patterns_and_lists_stand_for_scans_each_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run/a.h5", "run/b.npz", "run/notes.md", "deep/er/c.cxi", "odd[1].h5"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("lists").mkdir()
    Path("lists/more.txt").write_text("# names\n../deep/**/*.cxi\n\n../run/a.h5\n@again.txt\n")
    Path("lists/again.txt").write_text("gone.h5\n")
    assert scans_of(["run"]) == [Path("run/a.h5"), Path("run/b.npz")]
    assert scans_of(["run/*.npz", "run/b.npz", "odd[1].h5"]) == [Path("run/b.npz"), Path("odd[1].h5")]
    assert [path.name for path in scans_of(["@lists/more.txt"])] == ["c.cxi", "a.h5", "gone.h5"]
    assert scans_of(["@lists/more.txt"])[-1] == Path("lists/gone.h5")
    for nothing in ("lists", "run/*.tif", "@absent.txt"):
        with pytest.raises(MissingFileError, match=nothing.removeprefix("@").replace("*", ".")):
            scans_of([nothing])


@given(st.lists(st.sampled_from([Path(f"/{a}/{b}/{c}") for a in "xy" for b in "vw" for c in ("s.h5", "s.npz", "v-s.h5")]),
                unique=True), st.randoms())  # fmt: skip
def test_every_scan_has_a_folder_of_its_own_that_does_not_depend_on_their_order(scans, random):
    names = folder_names(scans)
    assert len(set(names)) == len(scans)
    assert not any("/" in name for name in names)
    shuffled = random.sample(scans, len(scans))
    assert dict(zip(shuffled, folder_names(shuffled), strict=True)) == dict(zip(scans, names, strict=True))


def test_a_folder_has_the_name_of_its_scan_where_that_is_enough():
    assert folder_names([Path("run/a.h5"), Path("run/b.h5")]) == ["a", "b"]
    assert folder_names([Path("/x/7/scan.h5"), Path("/x/8/scan.h5"), Path("/x/other.h5")]) == [
        "7-scan",
        "8-scan",
        "other",
    ]
