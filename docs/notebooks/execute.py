"""Run the notebooks and keep what they show: ``python docs/notebooks/execute.py [NAME.ipynb ...]``."""

from __future__ import annotations

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


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(file.name for file in HERE.glob("*.ipynb")):
        nbformat.write(execute(HERE / name), HERE / name)
