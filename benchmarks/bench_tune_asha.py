"""What early stopping saves and what it costs: `python benchmarks/bench_tune_asha.py [SEED ...]`.

The same random configurations of a network (learning rate, optimiser, batch size, activation, weights of the losses) are
trained to the end, and then once more under ASHA. Compute is counted in epochs. Prints one JSON line a seed; exits with 1
if ASHA took more than 40 % of the epochs or its best configuration, trained to the end, is more than 2 % worse in held-out
likelihood than the best of all.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.tune import run_sweep
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.simulation import make_object, make_probe, make_scan, simulate_scan
from ptycho_ray.tracking.sweep_record import SweepRecord
from ptycho_ray.tuning.space import Space, space_from

TRIALS, EPOCHS = 18, 18
SPACE = space_from(
    {
        "trial": "train",
        "objective": "likelihood",
        "search": "random",
        "parameters": {
            "execution.learning_rate": {"loguniform": [1e-5, 1e-2]},
            "optimizer": {"choice": ["adam", "adamw", "sgd"]},
            "batch_size": {"choice": [8, 16]},
            "model.amp_activation": {"choice": ["sigmoid", "softplus"]},
            "mae_weight": {"choice": [0.0, 1.0]},
        },
        "settings": {"nepochs": EPOCHS, "validation_fraction": 0.2, "n_filters_scale": 1},
    }
)


def small_scan(seed: int) -> RawData:
    """80 patterns of side 32."""
    rng = np.random.default_rng(seed)
    image = make_object("dead_leaves", (88, 88), rng)
    probe = make_probe("disc", 32, rng, photons=1e5)
    return simulate_scan(image, probe, make_scan("fermat", (88, 88), 32, rng, n_patterns=80), rng=rng)


def swept(scan: RawData, space: Space, seed: int) -> SweepRecord:
    """The record of one sweep."""
    with tempfile.TemporaryDirectory() as name:
        record = SweepRecord.begin(Path(name), {"space": space.to_dict()}, resume=False)
        run_sweep(scan, {"model.N": scan.N, **space.settings}, space, record, TRIALS, seed=seed)
        return record


def main() -> int:
    good = True
    for seed in [int(word) for word in sys.argv[1:]] or [0, 1]:
        scan = small_scan(seed)
        with connected(ExecutionConfig()):
            whole = swept(scan, replace(SPACE, scheduler="none"), seed)
            asha = swept(scan, SPACE, seed)
        to_the_end = {trial.number: trial.figures["likelihood"] for trial in whole.judged()}
        best, chosen = min(to_the_end.values()), asha.best()
        assert chosen is not None
        spent = sum(trial.epoch for trial in asha.ended) / sum(trial.epoch for trial in whole.ended)
        worse = chosen.figures["likelihood"] / best - 1
        found = {"seed": seed, "trials": TRIALS, "epochs": EPOCHS, "share_of_the_epochs": round(spent, 3)}
        found |= {"best": best, "asha": chosen.figures["likelihood"], "worse_by": round(worse, 4)}
        found |= {"finished": len(asha.judged()), "stopped": sum(t.status == "stopped" for t in asha.ended)}
        print(json.dumps(found), flush=True)
        good &= spent <= 0.4 and worse <= 0.02
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
