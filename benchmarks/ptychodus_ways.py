"""The real Ptychodus and ptycho_ray on one scan with a known object, by all three ways of docs/ptychodus.md.

    python benchmarks/ptychodus_ways.py lcls_run1084.npz --epochs 16 --gridsize 2 --output outputs/ptychodus

Needs ptychodus 1.7 and our plugin in it. The geometry, which the file lacks, is invented.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ["PTYCHODUS_PTYCHORAY"] = "1"

from ptychodus.model import ModelCore

from ptycho_ray.data import load_data
from ptycho_ray.data.formats.ptychodus_product import read_product
from ptycho_ray.evaluation import evaluate_reconstruction

GEOMETRY = "energy_eV: 8800\ndetector_distance_m: 4.0\ndetector_pixel_m: 75e-6\n"


def prepare(scan: Path, folder: Path, epochs: int, gridsize: int) -> None:
    """Ptychodus reads the scan with our reader and writes its standard layout."""
    with ModelCore() as core:
        api = core.workflow_api
        diffraction = api.load_diffraction_data(scan, file_type="PtychoRay_PtychoPINN", block=True)
        product = api.load_product(scan, file_type="PtychoRay_PtychoPINN", diffraction=diffraction)
        folder.mkdir()
        diffraction.save_assembled_data(folder / "diffraction.h5")
        product.save_product(folder / "product.h5", file_type="HDF5")
    (folder / "settings.ini").write_text(
        "[Processing]\nAlgorithm = PtychoRay_PINN\n[PtychoRay]\nCheckpointInterval = 0\n"
        f"Epochs = {epochs}\nGridSize = {gridsize}\nFiltersScale = 1\n"
    )


def run(*words: str | Path) -> float:
    """Run a module of this Python; the seconds it took."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def drop(scan: Path, watched: Path) -> tuple[Path, float]:
    """Copy a scan into a folder that Ptychodus watches and wait for the product in its list."""
    with ModelCore() as core:
        automation = core.automation_core
        automation.settings.data_directory.set_value(watched.absolute())
        automation.settings.watchdog_delay_s.set_value(1)
        automation.presenter.set_current_workflow("PtychoRay")
        automation.presenter.set_watcher_enabled(True)
        began = time.monotonic()
        shutil.copyfile(scan, watched / scan.name)
        while not len(core.product_core.product_repository):
            core.run_tasks()
            time.sleep(0.2)
        assert core.product_core.product_repository[0].get_product().object_.get_array().any()
    return watched / "reconstructed" / f"{scan.name}.product.h5", time.monotonic() - began


def score(product_file: Path, scan: Any, start: Path) -> str:
    """Mean errors of amplitude and phase where the scan lit the sample, after registration."""
    product, frame = read_product(product_file), read_product(start)
    image = product.object[0]
    middle = [(np.array(p.object.shape[-2:]) - 1) / 2 for p in (product, frame)]
    origin = (np.array(product.centre_m) - frame.centre_m) / product.pixel_m + middle[1] - middle[0]
    lit = np.zeros(image.shape)
    amplitude = np.sqrt(np.sum(np.abs(scan.probe) ** 2, axis=0))
    for row, column in np.rint(scan.positions_px - origin - scan.N // 2).astype(int):
        lit[row : row + scan.N, column : column + scan.N] += amplitude
    region = lit > 0.3 * np.median(lit[lit > 0])
    found = evaluate_reconstruction(image, scan.object_truth, origin_px=tuple(origin), region=region)
    return f"amplitude {found.amplitude.mae:.4f}  phase {found.phase.mae:.4f} rad"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--gridsize", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("outputs/ptychodus"))
    options = parser.parse_args()
    output = options.output
    given, watched, scan = output / "in", output / "watched", load_data(options.scan)
    output.mkdir(parents=True)
    watched.mkdir()
    (watched / "ptycho_ray.yaml").write_text(GEOMETRY + "model: ../a\n")
    source = output / options.scan.name
    shutil.copyfile(options.scan, source)
    (output / "ptycho_ray.yaml").write_text(GEOMETRY)
    prepare(source, given, options.epochs, options.gridsize)

    seconds = run("ptycho_ray", "train", "--input", given, "--output", output / "a")
    print(f"a  {score(output / 'a' / 'product.h5', scan, given / 'product.h5')}  {seconds:.0f} s")
    product, seconds = drop(options.scan, watched)
    print(f"b  {score(product, scan, given / 'product.h5')}  {seconds:.0f} s")
    batch = ("ptychodus", "-s", given / "settings.ini", "-i", given)
    seconds = run(*batch, "-b", "train", "-o", output / "c_model")
    shutil.copy(output / "c_model" / "model.wts.h5.zip", given)
    seconds += run(*batch, "-b", "reconstruct", "-o", output / "c")
    product = output / "c" / f"product.{options.epochs:06d}.h5"
    print(f"c  {score(product, scan, given / 'product.h5')}  {seconds:.0f} s")


if __name__ == "__main__":
    main()
