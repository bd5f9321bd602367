"""Libraries that only some sources need, each an extra of the package."""

from __future__ import annotations

import importlib
from typing import Any

from ptycho_ray.errors import InputError


def library(module: str, missing: str, extra: str) -> Any:
    """A module of a library; InputError says how to get it, with ``missing`` as what was found."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(field="source", found=missing, expected=f"pip install 'ptycho-ray[{extra}]'") from None
