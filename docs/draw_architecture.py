"""The rooms of ptycho_ray and the arrows between them, measured from the imports; draws the picture of docs/architecture.md.

    python docs/draw_architecture.py          # writes docs/images/architecture.svg and prints the table

Imports inside functions count like those at the top of a file; those for type checkers alone do not.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ptycho_ray"
#: The rooms from the ground up; a room may know those on lower floors, and of its own floor only what ALLOWED_SIDEWAYS says.
FLOORS: list[tuple[str, ...]] = [
    ("errors", "files"),
    ("physics", "config"),
    ("data",),
    ("simulation", "evaluation", "models", "tracking"),
    ("bundle",),
    ("display", "reconstruction", "training", "refinement"),
    ("workflow",),
    ("tuning", "interactive", "client"),
    ("cluster", "service", "interop"),
    ("commands",),
]
