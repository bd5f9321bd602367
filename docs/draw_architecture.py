"""The rooms of ptycho_ray and the arrows between them, measured from the imports; draws the picture of docs/architecture.md.

    python docs/draw_architecture.py          # prints who imports whom and writes docs/images/architecture.png

Imports inside functions count like those at the top of a file; those that only type checkers see do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ptycho_ray"
#: Rooms by floor, the ground first. A room may import from lower floors only; ``tests/test_architecture.py`` holds it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files",),
    ("config", "examples", "physics"),
    ("data",),
    ("models", "evaluation", "simulation", "calibration"),
    ("display",),
    ("tracking",),
    ("bundle",),
    ("reconstruction",),
    ("training",),
    ("refinement",),
    ("automatic",),
    ("workflow",),
    ("client", "live", "interactive", "tuning"),
    ("api", "cluster", "interop"),
    ("service",),
    ("commands",),
)
#: Where on its floor a room is drawn, 0 to 10.
PLACES = {
    "errors": 5.0, "files": 3.2, "config": 3.2, "physics": 7.4, "examples": 9.4, "data": 5.2, "models": 2.2, "evaluation": 6.0,
    "simulation": 7.7, "calibration": 9.3,
    "display": 4.2, "tracking": 2.6, "bundle": 1.8, "reconstruction": 5.0, "training": 3.4,
    "refinement": 6.6, "automatic": 6.0, "workflow": 5.2,
    "interactive": 2.6, "tuning": 5.6, "client": 9.2, "live": 7.6, "cluster": 5.6, "interop": 2.6,
    "service": 7.6, "api": 1.0, "commands": 5.2,
}  # fmt: skip
Graph = dict[str, set[str]]


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of the package by its dotted name; what is packed for another program (``wheel/``) is not part of it."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        if "wheel" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every import statement, name empty for ``import module``; none below ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imported_names(other)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        else:
            yield from imported_names(node)


def import_graph(package: Path = PACKAGE) -> Graph:
    """Which modules of the package each module imports; without ``__init__`` and ``__main__``, which only hand on."""
    known = modules(package)
    graph: Graph = {}
    for module, file in known.items():
        targets = set()
        for source, name in imported_names(ast.parse(file.read_text(encoding="utf-8"))):
            full = f"{source}.{name}"
            targets.add(full if full in known else source)
        graph[module] = {target for target in targets if target in known and target not in (module, package.name)}
    return {
        module: targets for module, targets in graph.items() if module not in (package.name, f"{package.name}.__main__")
    }


def room_of(module: str) -> str:
    """The folder or file directly below the package that a module lies in."""
    return module.split(".")[1]


def room_graph(graph: Mapping[str, set[str]]) -> dict[str, dict[str, list[str]]]:
    """For each room the rooms that it imports from, with the imports as ``module -> module``."""
    rooms: dict[str, dict[str, list[str]]] = {}
    for module, targets in graph.items():
        room = rooms.setdefault(room_of(module), {})
        for target in sorted(targets):
            if room_of(target) != room_of(module):
                room.setdefault(room_of(target), []).append(f"{module} -> {target}")
    return rooms


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or on the way round: the strongly connected components of two and more."""
    reached = {module: _reached_from(module, graph) for module in graph}
    found = {
        tuple(sorted({module} | {other for other in reached[module] if module in reached.get(other, ())}))
        for module in graph
        if module in reached[module]
    }
    return [list(members) for members in sorted(found)]


def _reached_from(module: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[module])
    while waiting:
        target = waiting.pop()
        if target not in seen:
            seen.add(target)
            waiting += graph.get(target, ())
    return seen


def essential(rooms: Mapping[str, Mapping[str, list[str]]]) -> list[tuple[str, str]]:
    """The arrows without those that lead where others lead already (transitive reduction)."""
    plain = {room: set(targets) for room, targets in rooms.items()}
    below = {room: _reached_from(room, plain) for room in plain}
    return [
        (room, target)
        for room, targets in sorted(plain.items())
        for target in sorted(targets)
        if not any(target in below.get(other, ()) for other in targets - {target})
    ]


def draw(rooms: Mapping[str, Mapping[str, list[str]]], path: Path) -> None:
    """Rooms as boxes, ground floor below; an arrow for each essential import, as wide as there are imports behind it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.82 * len(FLOORS)), layout="constrained")
    axis = figure.subplots()
    place = {name: (PLACES[name], floor) for floor, names in enumerate(FLOORS) for name in names}
    counts: dict[str, int] = {}
    for module in import_graph():
        counts[room_of(module)] = counts.get(room_of(module), 0) + 1
    boxes = {}
    for name, (x, y) in place.items():
        folder = (PACKAGE / name).is_dir()
        label = f"{name}/\n{counts[name]} modules" if folder else f"{name}.py"
        style = {"boxstyle": "round,pad=0.35", "facecolor": "#e8eef7" if folder else "#f6f0e2", "edgecolor": "0.3"}
        boxes[name] = axis.text(x, y, label, ha="center", va="center", fontsize=9, bbox=style)
    for room, target in essential(rooms):
        ends = {"patchA": boxes[room].get_bbox_patch(), "patchB": boxes[target].get_bbox_patch()}
        look = {"arrowstyle": "-|>", "color": "0.45", "linewidth": min(3.5, 0.6 + len(rooms[room][target]) / 6)}
        arrow = {**look, **ends, "shrinkA": 1, "shrinkB": 1, "connectionstyle": "arc3,rad=0.06"}
        axis.annotate("", xy=place[target], xytext=place[room], arrowprops=arrow)
    axis.set_xlim(0, 10)
    axis.set_ylim(-0.6, len(FLOORS) - 0.4)
    axis.axis("off")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    graph = import_graph()
    rooms = room_graph(graph)
    for names in reversed(FLOORS):
        for name in names:
            print(f"{name:15} -> {', '.join(f'{t} ({len(v)})' for t, v in sorted(rooms.get(name, {}).items())) or '-'}")
    print("circles:", circles(graph) or "none")
    draw(rooms, PACKAGE.parent / "docs/images/architecture.png")


if __name__ == "__main__":
    main()
