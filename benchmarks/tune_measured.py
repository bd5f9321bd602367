"""What sweeps gain on a measured scan: `python benchmarks/tune_measured.py SCAN [experiment] [network]`.

Two sweeps without a truth: over the experiment as the file states it (scale, rotation and shear of the positions, defocus of
the probe; direct solutions), and over the training of a small network (learning rate, batch, likelihood and MAE, activation,
trainable probe; ASHA). Then the defaults and the best settings run to their end with the same held-out patterns. Prints a
JSON line for each; exits with 1 if the best settings do not improve the held-out R-factor.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from ptycho_ray import workflow
from ptycho_ray.commands import tune
from ptycho_ray.tuning.trial import Figures, run_trial, trial_config

ROOT = Path(__file__).resolve().parents[1]
NETWORK: dict[str, Any] = {
    "trial": "train",
    "objective": "r_factor",
    "parameters": {
        "execution.learning_rate": {"loguniform": [2e-4, 5e-3]},
        "batch_size": {"choice": [8, 16, 32]},
        "mae_weight": {"choice": [0.0, 1.0]},
        "model.amp_activation": {"choice": ["sigmoid", "softplus"]},
        "probe_trainable": {"choice": [False, True]},
        "probe_learning_rate": {"loguniform": [1e-3, 3e-2], "when": {"probe_trainable": True}},
    },
    "settings": {"nepochs": 6, "validation_fraction": 0.1, "gridsize": 1, "n_filters_scale": 1, "n_groups": 256},
}
#: Trials of each sweep, and passes or epochs of the comparison that follows.
TRIALS = {"experiment": 40, "network": 14}
FINAL = {"experiment": 60, "network": 12}


def space_of(kind: str) -> dict[str, Any]:
    """The search space of a sweep."""
    if kind == "network":
        return NETWORK
    space: dict[str, Any] = yaml.safe_load((ROOT / "configs/tune/geometry.yaml").read_text(encoding="utf-8"))
    return {**space, "objective": "r_factor"}


def compared(scan: Path, kind: str) -> dict[str, Any]:
    """Held-out figures with the defaults and with the best settings of the sweep."""
    space = space_of(kind)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "space.yaml").write_text(yaml.safe_dump(space))
        words = [str(scan), "--space", str(folder / "space.yaml"), "--trials", str(TRIALS[kind])]
        result = tune.run([*words, "--output-dir", str(folder / "sweep")])
        parameters = {n: v for n, v in result["best"].items() if n not in ("trial", "r_factor")}
        raw = workflow.load_data(scan)
        common = {"n_groups": len(raw), **space["settings"], "nepochs": FINAL[kind], "model.N": raw.N}
        figures: dict[str, Figures] = {}
        for case, own in (("defaults", {}), ("best", parameters)):
            config, execution = trial_config(common, own)
            figures[case] = run_trial(
                space["trial"], raw, config, execution, ["r_factor"], folder / case, lambda epoch, figures: None
            )
    return {
        "sweep": kind,
        "trials": TRIALS[kind],
        "seconds": result["seconds"],
        "stopped_early": result["stopped_early"],
        "best": parameters,
        **{
            f"{case}_{name}": round(found[name], 5)
            for case, found in figures.items()
            for name in ("r_factor", "deviance")
        },
    }


def main() -> int:
    torch.set_num_threads(1)  # as the trials have; on a busy machine a second thread only waits
    scan, *kinds = sys.argv[1:]
    good = True
    for kind in kinds or list(TRIALS):
        found = compared(Path(scan), kind)
        print(json.dumps(found), flush=True)
        good &= found["best_r_factor"] < found["defaults_r_factor"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
