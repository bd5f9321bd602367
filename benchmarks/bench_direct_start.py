"""Does the solver end lower, or sooner, if it starts from the direct phase of a weak object and not from a flat object?

    python benchmarks/bench_direct_start.py SCAN

For each method, start and number of iterations one line of JSON: the deviance of held-out patterns before the first iteration
and at the end, and the seconds of the processor that the solver took; before them the seconds of the direct phase.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import torch

from ptycho_ray.data.raw_data import load_data
from ptycho_ray.reconstruction.weak_phase import weak_phase_image
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import Refinement

METHODS, ITERATIONS, HELD_OUT = ("adam", "accelerated"), (1, 3, 10), 0.05


def main() -> None:
    torch.set_num_threads(1)
    scan = load_data(sys.argv[1])
    began = time.process_time()
    starts = {"direct": weak_phase_image(scan), "flat": None}
    print(json.dumps({"direct_phase_cpu_s": round(time.process_time() - began, 2)}), flush=True)
    for method, count, name in itertools.product(METHODS, ITERATIONS, starts):
        config = RefinementConfig(method=method, iterations=count, check_every=count, held_out_fraction=HELD_OUT)
        began = time.process_time()
        refinement = Refinement(scan, config, start=starts[name])
        before = refinement.judge(refinement.held_out).deviance
        after = [progress.deviance for progress in refinement][-1]
        assert after is not None
        found = {
            "method": method,
            "iterations": count,
            "start": name,
            "before": round(before, 3),
            "after": round(after, 3),
        }
        print(json.dumps(found | {"cpu_s": round(time.process_time() - began, 2)}), flush=True)


if __name__ == "__main__":
    main()
