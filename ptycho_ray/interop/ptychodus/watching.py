"""A Ptychodus workflow for a watched folder: a scan placed in it is reconstructed and returned as a product."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ptychodus.api.workflow import FileBasedWorkflow, WorkflowAPI

from ptycho_ray.data.formats.ptychodus_product import PRODUCT_FILE
from ptycho_ray.errors import NOT_TRUSTED, InputError
from ptycho_ray.interop.ptychodus.beamline import Beamline, read_beamline
from ptycho_ray.interop.ptychodus.readers import ANY_SCAN

log = logging.getLogger(__name__)

RESULTS, PRODUCT_SUFFIX = "reconstructed", ".product.h5"
SUFFIXES = (".npz", ".h5", ".hdf5", ".cxi", ".ptyd", ".bz2", ".mat")


class PtychoRayFileBasedWorkflow(FileBasedWorkflow):
    """Watches a folder with a file ``ptycho_ray.yaml``, which may name a model or a service for the reconstruction; without a
    model it is automatic.

    A scan starts a reconstruction in another process, which ends with ``reconstructed/NAME.product.h5``; that file, when it
    is complete, is loaded as a product. Nothing waits in the thread that the host calls from.
    """

    @property
    def is_watch_recursive(self) -> bool:
        return True

    def get_watch_file_pattern(self) -> str:
        """Everything but hidden files: the host stops watching permanently when a file that it has seen disappears,
        as temporary files do."""
        return "[!.]*"

    def execute(self, api: WorkflowAPI, file_path: Path) -> None:
        """Called by the host for every complete file; others than scans are ignored."""
        if file_path.parent.name == RESULTS:
            if file_path.name.endswith(PRODUCT_SUFFIX):
                load_result(api, file_path)
            return
        if file_path.suffix.lower() not in SUFFIXES:
            return
        try:
            beamline = read_beamline(file_path.parent)
            command_for(file_path, beamline, file_path.parent)
        except InputError as error:
            log.error("%s is not reconstructed: %s", file_path, error)
            return
        start(file_path, beamline)


def load_result(api: WorkflowAPI, product: Path) -> None:
    """Give a product to the host, with its patterns: without them it shows neither probe nor object."""
    scan = product.parents[1] / product.name.removesuffix(PRODUCT_SUFFIX)
    diffraction = api.load_diffraction_data(scan, file_type=ANY_SCAN, block=True) if scan.is_file() else None
    api.load_product(product, file_type="HDF5", diffraction=diffraction)


def command_for(scan: Path, beamline: Beamline, scratch: Path) -> list[str]:
    """The words after ``ptycho-ray`` that turn a scan into ``product.h5`` in a folder."""
    words = [str(scan), *beamline.geometry_words(), "--product", str(scratch / PRODUCT_FILE)]
    if beamline.service is not None:
        words = ["submit", *words, "--url", beamline.service, "--output", str(scratch / "image.npz")]
        return [*words, "--model", beamline.model] if beamline.model else words
    model = [] if beamline.model is None else ["--model-path", beamline.model]
    return ["reconstruct", *words, *model, "--output-dir", str(scratch)]


def start(scan: Path, beamline: Beamline) -> threading.Thread:
    """Reconstruct a scan in another process and log the outcome; runs in a thread. The product is copied to its
    place instead of renamed, since the host does not notice renamed files.
    """

    def wait() -> None:
        with tempfile.TemporaryDirectory(prefix="ptycho-ray-") as scratch:
            try:
                words = command_for(scan, beamline, Path(scratch))
                done = subprocess.run(
                    [sys.executable, "-m", "ptycho_ray", *words], capture_output=True, text=True, check=False
                )
                if done.returncode == NOT_TRUSTED:
                    log.warning("%s: %s", scan, done.stderr.strip().rpartition("\n")[2])
                elif done.returncode:
                    log.error("%s was not reconstructed: %s", scan, done.stderr.strip()[-2000:])
                    return
                results = scan.parent / RESULTS
                results.mkdir(exist_ok=True)
                shutil.copyfile(Path(scratch) / PRODUCT_FILE, results / f"{scan.name}{PRODUCT_SUFFIX}")
            except OSError as error:
                log.error("%s was not reconstructed: %s", scan, error)

    waiting = threading.Thread(target=wait, name=f"ptycho-ray {scan.name}", daemon=True)
    waiting.start()
    return waiting


def register_workflow(registry: Any) -> None:
    registry.file_based_workflows.register_plugin(
        PtychoRayFileBasedWorkflow(), simple_name="PtychoRay", display_name="PtychoRay: reconstruct what appears"
    )
