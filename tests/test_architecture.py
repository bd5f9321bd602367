"""Where things live and who may know whom; docs/architecture.md shows the same to people."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ptycho_ray.interop.old_paths import OLD_PATHS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ptycho_ray"
BESIDE_THE_FOLDERS = {
    "__init__.py",
    "__main__.py",
    "errors.py",
    "files.py",
    "bundle.py",
    "workflow.py",
    "interactive.py",
}
#: Which rooms each room may import from; one line more is a decision, one line less a relief.
MAY_KNOW = {
    "errors": set(),
    "files": {"errors"},
    "physics": {"errors"},
    "examples": {"errors"},
    "config": {"errors", "files"},
    "data": {"config", "errors", "files", "physics"},
    "simulation": {"config", "data", "errors", "files", "physics"},
    "evaluation": {"errors", "files", "physics"},
    "calibration": {"data", "errors", "physics"},
    "models": {"config", "data", "errors", "files", "physics"},
    "display": {"config", "data", "evaluation", "files"},
    "tracking": {"config", "display", "errors", "files"},
    "bundle": {"config", "data", "errors", "files", "models", "tracking"},
    "reconstruction": {"bundle", "config", "data", "errors", "evaluation", "files", "models", "physics"},
    "training": {
        "bundle", "config", "data", "errors", "evaluation", "files", "models", "physics", "reconstruction", "simulation",
    },
    "refinement": {
        "config", "data", "errors", "evaluation", "files", "models", "physics", "reconstruction", "training",
    },
    "automatic": {"calibration", "data", "errors", "physics", "reconstruction", "refinement"},
    "workflow": {
        "automatic", "bundle", "config", "data", "display", "errors", "models", "reconstruction", "refinement", "training",
    },
    "interactive": {
        "bundle", "config", "data", "display", "errors", "evaluation", "models", "reconstruction", "refinement", "training",
        "workflow",
    },
    "api": {
        "bundle", "calibration", "config", "data", "display", "errors", "evaluation", "interactive", "models",
        "reconstruction", "refinement", "simulation", "tracking", "training", "workflow",
    },
    "tuning": {
        "bundle", "config", "data", "display", "errors", "evaluation", "files", "models", "physics", "reconstruction",
        "refinement", "tracking", "training", "workflow",
    },
    "client": {"errors", "files"},
    "live": {"config", "data", "errors", "physics"},
    "interop": {"bundle", "config", "data", "errors", "files", "models", "reconstruction", "training", "workflow"},
    "service": {
        "bundle", "cluster", "config", "data", "display", "errors", "evaluation", "files", "reconstruction", "refinement",
        "simulation", "training", "workflow",
    },
    "cluster": {
        "bundle", "config", "data", "display", "errors", "files", "models", "reconstruction", "refinement",
        "tracking", "training", "tuning", "workflow",
    },
    "commands": {
        "api", "automatic", "bundle", "calibration", "client", "cluster", "config", "data", "display", "errors", "evaluation",
        "examples", "files", "interop", "live", "models",
        "reconstruction", "refinement", "service", "simulation", "tracking", "training", "tuning", "workflow",
    },
}  # fmt: skip
#: Rooms that may import ray.
WITH_RAY = {"cluster", "service"}
#: File names that stand in several rooms because they are the same concept there: a command and what it runs, for example.
SAME_CONCEPT = {
    "checkpoint.py",  # the state of a training, of a refinement
    "ensemble.py",  # several networks: trained, side by side, and their images
    "evaluate.py", "refine.py", "train.py", "tune.py", "simulate.py",  # a command, and what it runs
    "generalisation_study.py",  # its runs, and its runs side by side
    "reconstruct.py",  # a command, and what it runs
    "reference.py",  # PtychoPINN's own conventions
    "streams.py",  # both ends of a stream
    "training.py",  # settings of a training, and from options to these settings
}  # fmt: skip


@pytest.fixture(scope="module")
def drawing() -> Any:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs/draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_else_lies_beside_the_folders() -> None:
    files = {path.name for path in PACKAGE.iterdir() if path.is_file() and path.suffix != ".typed"}
    assert files == BESIDE_THE_FOLDERS


def test_no_modules_import_each_other(drawing: Any) -> None:
    assert drawing.circles(drawing.import_graph()) == []


def test_rooms_know_only_what_they_may(drawing: Any) -> None:
    rooms = drawing.room_graph(drawing.import_graph())
    assert set(rooms) <= set(MAY_KNOW)
    unexpected = [
        where for room, targets in rooms.items() for target, places in targets.items() for where in places
        if target not in MAY_KNOW[room]
    ]  # fmt: skip
    assert unexpected == []


def test_the_table_has_no_line_that_nobody_needs(drawing: Any) -> None:
    rooms = drawing.room_graph(drawing.import_graph())
    assert {
        room: known - set(rooms.get(room, ())) for room, known in MAY_KNOW.items() if known - set(rooms.get(room, ()))
    } == {}


def test_floors_of_the_picture_are_those_of_the_table(drawing: Any) -> None:
    floor = {room: number for number, rooms in enumerate(drawing.FLOORS) for room in rooms}
    assert set(floor) == set(MAY_KNOW)
    assert [(room, other) for room, known in MAY_KNOW.items() for other in known if floor[other] >= floor[room]] == []


def test_ray_stays_in_its_rooms(drawing: Any) -> None:
    import ast

    users = {
        drawing.room_of(module)
        for module, file in drawing.modules().items()
        if "." in module
        for name, _ in drawing.imported_names(ast.parse(file.read_text(encoding="utf-8")))
        if name.split(".")[0] == "ray"
    }
    assert users == WITH_RAY


def test_circles_are_found(drawing: Any) -> None:
    assert drawing.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_every_room_says_what_lives_in_it() -> None:
    for folder in sorted(path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {folder.name}/\n"), folder
        assert 5 <= len(text.splitlines()) <= 20, f"{folder.name}/README.md: about ten lines"
        for word in ("not ", "start"):
            assert word in text.lower(), f"{folder.name}/README.md: what does not live here, and where to start reading"


def test_one_name_one_meaning(drawing: Any) -> None:
    places: dict[str, list[str]] = {}
    for file in drawing.modules().values():
        if file.name != "__init__.py":
            places.setdefault(file.name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1 and name not in SAME_CONCEPT} == {}


@pytest.mark.parametrize("old", OLD_PATHS)
def test_an_old_path_leads_to_the_module_of_today(old: str) -> None:
    if OLD_PATHS[old].startswith("service"):
        pytest.importorskip("ray")
    assert importlib.import_module(f"ptycho_ray.{old}") is importlib.import_module(f"ptycho_ray.{OLD_PATHS[old]}")


def test_the_page_names_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for room in MAY_KNOW:
        assert f"| `{room}" in page, room
