"""Ptychodus finds this file by its place; all that it does is in ptycho_ray.interop.ptychodus.plugin."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


def register_plugins(registry: Any) -> None:
    """Called by Ptychodus when it starts. An exception that leaves this function would end it."""
    try:
        from ptycho_ray.interop.ptychodus.plugin import register

        register(registry)
    except Exception:
        logger.exception("The plugin of ptycho_ray is not available.")
