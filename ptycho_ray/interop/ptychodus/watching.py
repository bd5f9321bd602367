"""A workflow of Ptychodus for a folder: a scan that is dropped into it comes back as a product."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ptychodus.api.workflow import FileBasedWorkflow, WorkflowAPI

from ptycho_ray.errors import InputError
from ptycho_ray.interop.ptychodus.beamline import Beamline, read_beamline

log = logging.getLogger(__name__)

RESULTS = "reconstructed"
SUFFIXES = (".npz", ".h5", ".hdf5", ".cxi", ".ptyd", ".bz2", ".mat")


class PtychoRayFileBasedWorkflow(FileBasedWorkflow):
    """Watches a folder with a file ``ptycho_ray.yaml``, which says who reconstructs: a model or a service.

    A scan starts a reconstruction in another process, which ends with ``reconstructed/NAME.product.h5``; that file, when it
    is complete, is loaded as a product. Nothing waits in the thread that the host calls from.
    """

    @property
    def is_watch_recursive(self) -> bool:
        return True

    def get_watch_file_pattern(self) -> str:
        return "*"

    def execute(self, api: WorkflowAPI, file_path: Path) -> None:
        """Called by the host for every file that is complete; what is no concern of ours is passed over."""
        if file_path.parent.name == RESULTS:
            if file_path.name.endswith(".product.h5"):
                api.load_product(file_path, file_type="HDF5")
            return
        if file_path.suffix.lower() not in SUFFIXES or file_path.name.startswith("."):
            return
        try:
            beamline = read_beamline(file_path.parent)
            words = command_for(file_path, beamline)
        except InputError as error:
            log.error("%s is not reconstructed: %s", file_path, error)
            return
        start(words, file_path)


def command_for(scan: Path, beamline: Beamline) -> list[str]:
    """The words after ``ptycho-ray`` that turn a scan into its product."""
    product = scan.parent / RESULTS / f"{scan.name}.product.h5"
    words = [str(scan), *beamline.geometry_words()]
    if beamline.service is not None:
        words = ["submit", *words, "--url", beamline.service, "--product", str(product)]
        return [*words, "--model", beamline.model] if beamline.model else words
    if beamline.model is None:
        raise InputError(
            file=beamline.file,
            field="model, service",
            found="neither",
            expected="the path of a trained model, or the URL of a service",
        )
    return ["reconstruct", *words, "--model-path", beamline.model, "--product", str(product)]


def start(words: list[str], scan: Path) -> threading.Thread:
    """Run ``ptycho-ray`` beside the host and log how it ended; the thread that waits for that."""

    def wait() -> None:
        with tempfile.TemporaryDirectory(prefix="ptycho-ray-") as scratch:
            others = ["--output-dir", scratch] if words[0] == "reconstruct" else ["--output", f"{scratch}/image.npz"]
            done = subprocess.run(
                [sys.executable, "-m", "ptycho_ray", *words, *others], capture_output=True, text=True, check=False
            )
        if done.returncode:
            log.error("%s was not reconstructed: %s", scan, done.stderr.strip()[-2000:])
        else:
            log.info("%s is reconstructed", scan)

    waiting = threading.Thread(target=wait, name=f"ptycho-ray {scan.name}", daemon=True)
    waiting.start()
    return waiting


def register_workflow(registry: Any) -> None:
    registry.file_based_workflows.register_plugin(
        PtychoRayFileBasedWorkflow(), simple_name="PtychoRay", display_name="PtychoRay: reconstruct what appears"
    )
