"""Many scans on a cluster: each succeeds or fails alone, and nothing is done twice."""

from __future__ import annotations

import json
import os
from collections import Counter

import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.display.scans_progress import waiting_line
from ptycho_ray.errors import InputError

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster.done_marks import Mark  # noqa: E402
from ptycho_ray.cluster.each_alone import ScanToDo, Treatment, treat_each  # noqa: E402
from ptycho_ray.errors import BAD_INPUT, FAILED, OK  # noqa: E402


class AsItSays(Treatment):
    """Does what the file of a scan says, and notes beside it that it did."""

    def begin(self, scan, device, say):
        what = scan.path.read_text()
        with scan.path.with_suffix(".log").open("a") as log:
            log.write("begin ")
        if what == "unusable":
            raise InputError(file=scan.path, field="frames", found="none")
        if what == "fails":
            raise KeyError("a name")
        if what == "leaves":
            raise SystemExit(2)
        if what == "kills" or (what == "kills once" and scan.path.with_suffix(".log").read_text() == "begin "):
            os._exit(1)
        if what == "grows":
            scan.path.write_text("grown")
        if what == "an image":
            scan.folder.joinpath("image.npz").touch()
            return {"exit_code": OK, "image": str(scan.folder / "image.npz")}
        return 3 if what in ("in parts", "in parts, one fails") else {"exit_code": OK, "device": device}

    def part(self, scan, number, device, say):
        if number == 1 and scan.path.read_text() == "in parts, one fails":
            raise ArithmeticError("diverged")
        (scan.folder / f"part{number}").touch()

    def finish(self, scan, say):
        return {"exit_code": OK, "parts": len(list(scan.folder.glob("part*")))}


class Watcher:
    """What a batch tells; raises an interruption once so many scans are done."""

    def __init__(self, interrupted_after=None):
        self.interrupted_after, self.done = interrupted_after, []

    def on_line(self, line):
        """Not of interest."""

    def on_start(self, workers, each, free):
        self.started = workers

    def on_worker(self, up, wanted):
        """Not of interest."""

    def on_running(self, states):
        """Not of interest."""

    def on_scan(self, line, done, left):
        self.done.append(line["scan"])
        assert len(self.done) == done
        if done == self.interrupted_after:
            raise KeyboardInterrupt


def scans(folder, contents):
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_text(content)
    return [ScanToDo(folder / name, folder / "out" / name) for name in contents]


def treat(todo, watcher=None, settings="these"):
    lines = treat_each(todo, AsItSays(), settings, ExecutionConfig(devices=2), watcher or Watcher())
    return {line["scan"].rpartition("/")[2]: line for line in lines}


def begun(folder):
    """How often each scan was begun."""
    return Counter({log.stem: len(log.read_text().split()) for log in folder.glob("*.log")})


@pytest.mark.slow
def test_each_scan_succeeds_or_fails_alone_and_only_what_is_missing_is_done_again(one_ray, tmp_path):
    kinds = {"a": "good", "b": "unusable", "c": "fails", "d": "leaves", "e": "kills", "f": "kills once", "g": None}
    todo = scans(tmp_path, {**kinds, "h": "in parts", "i": "in parts, one fails", "j": "good"})
    lines = treat(todo)
    codes = {name: line["exit_code"] for name, line in lines.items()}
    good = dict.fromkeys("afhj", OK)
    assert codes == good | {"b": BAD_INPUT, "g": BAD_INPUT} | dict.fromkeys("cdei", FAILED)
    assert (lines["a"]["device"], lines["h"]["parts"]) == ("cpu", 3)
    assert lines["b"]["error"] == "frames: found none"
    assert "worker was lost" in lines["e"]["error"]
    assert "diverged" in lines["i"]["error"]
    assert begun(tmp_path)["e"] == 2

    before = begun(tmp_path)
    (tmp_path / "c").write_text("good")
    os.utime(tmp_path / "a")  # another time, the same content
    (tmp_path / "j").write_text("good, but measured again")
    lines = treat(todo)
    done = {name: line["done"] for name, line in lines.items() if "error" not in line}
    assert done == {"a": "before", "c": "now", "f": "before", "h": "before", "j": "now"}
    assert {name: often - before[name] for name, often in begun(tmp_path).items() if name in done} == {
        "a": 0, "c": 1, "f": 0, "h": 0, "j": 1,
    }  # fmt: skip
    assert {name: line["done"] for name, line in treat(todo[:1], settings="others").items()} == {"a": "now"}


@pytest.mark.slow
def test_a_scan_that_grows_while_it_is_worked_on_is_done_again(one_ray, tmp_path):
    todo = scans(tmp_path, {"a": "grows"})
    for _ in range(3):
        treat(todo)
    assert begun(tmp_path) == {"a": 2}


@pytest.mark.slow
def test_a_scan_whose_image_was_removed_is_done_again_and_one_that_was_moved_is_named_where_it_lies(one_ray, tmp_path):
    todo = scans(tmp_path, {"a": "an image", "b": "an image"})
    treat(todo)
    (todo[0].folder / "image.npz").unlink()
    assert {name: line["done"] for name, line in treat(todo).items()} == {"a": "now", "b": "before"}
    (tmp_path / "out").rename(tmp_path / "moved")
    lines = treat([ScanToDo(scan.path, tmp_path / "moved" / scan.path.name) for scan in todo])
    assert {(line["done"], line["image"]) for line in lines.values()} == {
        ("before", f"{tmp_path}/moved/{name}/image.npz") for name in "ab"
    }


@pytest.mark.slow
def test_a_batch_that_was_interrupted_does_nothing_twice_and_needs_no_cluster_once_all_is_done(
    one_ray, tmp_path, monkeypatch
):
    todo = scans(tmp_path, {str(number): "good" for number in range(9)})
    with pytest.raises(KeyboardInterrupt):
        treat(todo, Watcher(interrupted_after=4))
    done = {scan.path.name for scan in todo if (mark := Mark.read(scan.folder)) and mark.line}
    before = begun(tmp_path)
    assert len(done) >= 4
    lines = treat(todo)
    assert [line["exit_code"] for line in lines.values()] == [OK] * 9
    assert {name: often for name, often in begun(tmp_path).items() if name in done} == {n: before[n] for n in done}

    monkeypatch.setattr("ptycho_ray.cluster.each_alone.connected", None)
    assert {line["done"] for line in treat(todo).values()} == {"before"}


def test_a_batch_with_five_broken_scans(one_ray, small_scan, scan_file, model_file, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    content = scan_file.read_bytes()
    for name in ("good", "fine"):
        (folder / f"{name}.npz").write_bytes(content)
    (folder / "truncated.npz").write_bytes(content[:-3000])
    (folder / "text.npz").write_text("beamtime 7\n")
    arrays = dict(np.load(scan_file))
    frames = next(name for name, array in arrays.items() if array.ndim == 3)
    spoilt = arrays[frames].astype(np.float32)
    spoilt[33] = np.nan
    np.savez(folder / "one-nan.npz", **{**arrays, frames: spoilt})
    np.savez(folder / "nan.npz", **{**arrays, frames: np.full_like(spoilt, np.nan)})
    np.savez(folder / "mismatched.npz", **{**arrays, "xcoords": arrays["xcoords"][:-7]})
    (tmp_path / "list.txt").write_text(f"# what was asked for\n{folder}\nscans/missing.npz\n")
    words = ["reconstruct-scans", f"@{tmp_path}/list.txt", "--model-path", str(model_file), "--workers", "2"]
    words += ["--output-dir", str(tmp_path / "images")]
    assert main([*words, "--json"]) == 1
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["done"], result["failed"], len(result["scans"])) == (3, 5, 8)
    errors = [line for line in told.err.splitlines() if line.startswith("error")]
    for name in ("truncated", "text", "nan", "mismatched", "missing"):
        assert sum(f"/{name}.npz: " in line for line in errors) == 1, (name, errors)
    assert "Traceback" not in told.err
    assert sorted(path.parent.name for path in tmp_path.glob("images/*/reconstruction.npz")) == [
        "fine",
        "good",
        "one-nan",
    ]

    assert main(words) == 1
    told = capsys.readouterr()
    assert "3 of 8 scans were done before" in told.err
    assert "5 of 8 scans failed; the same command tries them again" in told.err
    assert main([*words, "--shard-patterns", "30"]) == 1, "how it is cut up is no setting of the result"
    assert main([*words, "--select", "0:50"]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (["--device", "cuda"], "no machine of the cluster has a GPU"),
        (["--device", "cuda:1"], "Ray assigns"),
        (["--cpus-per-device", "9"], "9 CPU"),
    ],
)
def test_a_batch_for_which_there_is_no_room_is_refused(one_ray, scan_file, tmp_path, capsys, how, said):
    assert main(["reconstruct-scans", str(scan_file), "--output-dir", str(tmp_path), *how]) == 2
    assert said in capsys.readouterr().err


def test_what_is_waited_for_is_said():
    each = {"CPU": 1.0, "GPU": 0.25}
    assert waiting_line(each, {"CPU": (0, 2), "GPU": (1, 1)}, workers=2) == (
        "waiting for 2 CPUs and 0.5 GPU; 0 of 2 CPU free, 1 of 1 GPU free"
    )
    assert waiting_line(each, {"CPU": (2, 2), "GPU": (1, 1)}, workers=2) == ""
