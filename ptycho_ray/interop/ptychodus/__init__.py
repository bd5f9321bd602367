"""Interoperation with Ptychodus: its folders, a plugin with readers and a workflow, and a reconstructor library.

Its files are read and written by ``ptycho_ray.data.formats``. ``library``, ``plugin``, ``readers`` and ``watching`` are
loaded by Ptychodus, the other modules need none; see ``docs/ptychodus.md``.
"""

from __future__ import annotations

from pathlib import Path

#: The small distribution that puts our plugin where Ptychodus looks for plugins: ``pip install PLUGIN_PROJECT``.
PLUGIN_PROJECT = Path(__file__).parent / "wheel"
