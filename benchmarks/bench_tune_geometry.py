"""A sweep with configs/tune/geometry.yaml over a scan whose axes are exchanged, rotated by 5 degrees and 3 % too long.

    python benchmarks/bench_tune_geometry.py SCAN --output FOLDER [--trials 40]

SCAN is a file that ``ptycho-ray`` reads, as ``ptycho-ray simulate`` makes one, or the name of a benchmark scan in
``shared/data`` beside the project (sim64_1e6). Prints what was found beside what is right.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from bench_refinement import benchmark_scan

from ptycho_ray.commands.cli import main as ptycho_ray
from ptycho_ray.data import load_data
from ptycho_ray.data.position_maps import axes_matrix, position_matrix, transformed_positions

SCALE, ANGLE, AXES = 1.03, math.radians(5), "swap_xy"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", default="40")
    options = parser.parse_args()
    path = Path(options.scan)
    scan = load_data(path) if path.is_file() else benchmark_scan(ROOT.parent / "shared" / "data" / f"{path}.npz")[0]
    wrong = axes_matrix(AXES) @ position_matrix(SCALE, ANGLE)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "disturbed.npz"
    scan.at(transformed_positions(scan.positions_px, wrong)).to_file(file)
    folder = options.output / "sweep"
    words = ["tune", str(file), "--space", str(ROOT / "configs" / "tune" / "geometry.yaml"), "--trials", options.trials]
    if code := ptycho_ray([*words, "--output-dir", str(folder)]):
        sys.exit(code)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    right = {"position_scale": 1 / SCALE, "position_rotation_rad": -ANGLE, "position_shear": 0.0}
    print(f"\n{result['axes']}; right: {AXES}")
    for each in result["parameters"]:
        print(
            f"{each['name']}: {each['value']:.5f} ({each['low']:.5f} to {each['high']:.5f}); right: {right[each['name']]:.5f}"
        )
    found = position_matrix(*(each["value"] for each in result["parameters"]))
    positions = transformed_positions(scan.positions_px, found @ axes_matrix(AXES) @ wrong)
    away = np.linalg.norm(positions - scan.positions_px, axis=1)
    print(f"positions: {away.mean():.2f} px off in the mean, {away.max():.2f} px at most; {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
