"""What our plugin adds to Ptychodus: file readers, a workflow for watched folders and, if asked for, reconstructors.

Called by ``ptychodus/plugins/ptycho_ray_plugin.py``, which stands alone in a small distribution (``wheel/``).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

#: Set it to 1 and the algorithms PtychoRay_Automatic, PtychoRay_PINN and PtychoRay_Supervised appear.
LIBRARY_VARIABLE = "PTYCHODUS_PTYCHORAY"
OLDEST, NEWEST = (1, 7), (2,)


def register(registry: Any) -> None:
    """Add everything that this release of Ptychodus supports to its plugin registry."""
    release = tuple(int(part) for part in version("ptychodus").split(".")[:2])
    if not OLDEST <= release < NEWEST:
        log.warning(
            "ptycho_ray supports Ptychodus 1.7 to 1.x; its algorithms are not added to %s", version("ptychodus")
        )
        return
    from ptycho_ray.interop.ptychodus.readers import register_readers
    from ptycho_ray.interop.ptychodus.watching import register_workflow

    register_readers(registry)
    register_workflow(registry)
    if os.environ.get(LIBRARY_VARIABLE, "").lower() in ("1", "true", "yes", "on"):
        add_library()


def add_library() -> None:
    """Add our library to the host's list of algorithm libraries.

    Ptychodus has no hook for that: the list is written down in ``ModelCore.__init__``, which has just called us and will
    make its ``ProcessingCore`` from it. Ours appends the library, or leaves the list unchanged if the library cannot be
    created.
    """
    core: Any = sys.modules.get("ptychodus.model.core")
    if core is None or hasattr(core.ProcessingCore, "ptycho_ray"):
        return

    class ProcessingCore(core.ProcessingCore):
        ptycho_ray = True

        def __init__(
            self, task_manager: Any, settings_registry: Any, product_api: Any, algorithm_libraries: Sequence[Any]
        ) -> None:
            libraries = [*algorithm_libraries, *_library(settings_registry)]
            super().__init__(task_manager, settings_registry, product_api, libraries)

    core.ProcessingCore = ProcessingCore


def _library(settings_registry: Any) -> list[Any]:
    try:
        from ptycho_ray.interop.ptychodus.library import PtychoRayReconstructorLibrary

        return [PtychoRayReconstructorLibrary(settings_registry)]
    except Exception:  # whatever is wrong with us, the host starts
        log.exception("The reconstructors of ptycho_ray are not available.")
        return []
