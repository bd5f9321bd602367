"""Import paths of version 0.1, still used in notebooks and configuration files, mapped to the current modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Below ``ptycho_ray``: path of version 0.1 -> path of today.
OLD_PATHS = {
    "cli": "commands.cli",
    "client.sources": "live.growing_files",
    "cluster.serve": "service",
    "cluster.serve.deployments": "service.deployments",
    "command_line": "config.command_line",
    "comparison": "evaluation.comparison",
    "experiment": "data.corrections",
    "fields": "config.types",
    "interop.legacy": "config.legacy",
    "plotting": "display.figures",
    "pretraining": "training.pretraining",
    "reconstruction.direct": "refinement.direct",
    "reconstruction.orientation": "refinement.orientation",
    "reconstruction.refinement": "refinement.solver",
    "settings": "config.sources",
    "study": "tuning.generalisation_study",
}


class _Finder:
    """Finds a module under its old path (the protocol of ``sys.meta_path``)."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        root, _, rest = name.partition(".")
        return ModuleSpec(name, _Alias()) if root == "ptycho_ray" and rest in OLD_PATHS else None  # type: ignore[arg-type]


class _Alias:
    """Returns the current module itself, not a copy of it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"ptycho_ray.{OLD_PATHS[spec.name.partition('.')[2]]}")
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed already; the import system has only put the old name into its spec."""
        module.__spec__ = self.spec


def install() -> None:
    """Make the modules available under their old paths. This imports nothing.

    The finder comes first: the others would load a second copy of what lies in a room that has moved as a whole.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
