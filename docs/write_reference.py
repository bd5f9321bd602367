"""Write the pages of the reference that say what the program says: ``python docs/write_reference.py``.

Commands and settings come from the functions and classes that the program itself reads; a test compares.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import re
import typing
from pathlib import Path
from typing import Any

from ptycho_ray import commands
from ptycho_ray.commands.cli import COMMANDS
from ptycho_ray.config import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.config.schema import docstrings_of_fields
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.service.settings import ServiceSettings

#: What the classes of settings are for, in the order of the page.
SETTINGS: dict[type[Any], str] = {
    Reading: "How a file is read: what it does not say, or says wrongly. Options of every command that reads a scan",
    RefinementConfig: "The iterative solver: `refine`, `reconstruct` (as `--refinement.NAME`), the service, `tune`",
    TrainingConfig: "A training: `train`, and its `--config` file",
    ModelConfig: "The network: in a training file below `model:`, on the command line as `--NAME`",
    ExecutionConfig: "Where and how a training runs: `execution:`, `--execution.NAME`",
    InferenceConfig: "Inference with a trained network",
    ServiceSettings: "A service: options of `serve`, and `args` of a Ray Serve configuration",
}


def settings_page() -> str:
    """A table for each class of settings."""
    parts = ["# Settings\n\nEvery setting, its meaning with its unit, and its value where nothing is said.\n"]
    for cls, purpose in SETTINGS.items():
        parts.append(
            f"\n## {cls.__name__}\n\n{purpose}.\n\n| setting | meaning | kind | default |\n| --- | --- | --- | --- |\n"
        )
        helps, hints = docstrings_of_fields(cls), typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in helps:
                row = [f"`{field.name}`", helps[field.name], f"`{kind(hints[field.name])}`", f"`{default(field)}`"]
                parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n")
    return "".join(parts)


def kind(hint: Any) -> str:
    """A type in words: ``float | None``, ``'a' | 'b'``."""
    if typing.get_origin(hint) is typing.Annotated:
        return kind(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    return re.sub(r"\b(?:\w+\.)+", "", getattr(hint, "__name__", "") if isinstance(hint, type) else str(hint))


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return type(made).__name__ if dataclasses.is_dataclass(made) else str(made)
    return "required"


def commands_page() -> str:
    """What every command does, and its example."""
    parts = ["# Commands\n\n`ptycho-ray COMMAND --help` has the options, `--help-all` every setting.\n"]
    for name, summary in COMMANDS.items():
        parts.append(f"\n## {name}\n\n{summary[0].upper()}{summary[1:]}.\n\n{described(name)}\n")
    return "".join(parts)


def described(command: str) -> str:
    """The text that ``--help`` shows: the docstring with an example in the command's module; the example as code."""
    source = Path(commands.__path__[0], f"{command.replace('-', '_')}.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and "Example: " in (text := ast.get_docstring(node) or ""):
            escaped = html.escape(text, quote=False)
            return re.sub(r"^Example: ((?:.*\n?)+?)(?=\n|\Z)", r"```sh\n\1\n```", escaped, flags=re.MULTILINE)
    raise LookupError(command)


PAGES = {"commands.md": commands_page, "settings.md": settings_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(__file__).parent.joinpath("reference", name).write_text(page(), encoding="utf-8")
