"""Run the notebooks and keep what they show: ``python docs/notebooks/execute.py [NAME.ipynb ...]``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook after a run from top to bottom; CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.clear()
    client = NotebookClient(notebook, timeout=1200, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(HERE))
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def without_paths(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the random names of temporary folders replaced, so that two runs show the same."""
    text = nbformat.writes(notebook)
    return nbformat.reads(re.sub(r"/tmp/tmp[a-z0-9_]{8}\b", "/tmp/folder", text), as_version=4)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(file.name for file in HERE.glob("*.ipynb")):
        nbformat.write(without_paths(execute(HERE / name)), HERE / name)
