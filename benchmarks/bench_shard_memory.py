"""Private memory of an actor of ``jobs/reconstruct.py`` while it reconstructs shards: does it grow with the scan?

    python benchmarks/bench_shard_memory.py

Writes HDF5 scans of 1,000 and 4,000 patterns of 64 x 64 and lets what an actor runs, in a process of its own, do four shards
of 250 patterns of each. One line of JSON: private memory (what no other process shares) in MB, before the scan is opened and at
its highest after a shard.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_memory import write_scan

PATTERNS, SHARD, SHARDS = (1_000, 4_000), 250, 4


def private_mb() -> float:
    """Pages of this process alone."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+) kB", text)) / 1024


def make_model(scan_path: Path, folder: Path) -> None:
    from ptycho_ray import workflow
    from ptycho_ray.config import ModelConfig, TrainingConfig

    scan = workflow.load_data(scan_path, n_subsample=64, subsample_seed=0)
    config = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), n_groups=64, nepochs=1)
    workflow.save_inference_bundle(folder, workflow.train_cdi_model(scan, None, config), config, {})


def use_shards(scan_path: str, folder: str) -> None:
    """In a process of its own: what a worker does."""
    from ptycho_ray.cluster.batch import ByModel
    from ptycho_ray.cluster.each_alone import ScanToDo
    from ptycho_ray.config import ExecutionConfig

    by_model = ByModel(Path(folder), ExecutionConfig(inference_batch_size=16), shard_patterns=SHARD)
    before = private_mb()
    scan = ScanToDo(Path(scan_path), Path(folder) / "images")
    shards = by_model.begin(scan, "cpu", print)
    highest = 0.0
    for number in range(min(SHARDS, int(shards))):
        by_model.part(scan, number, "cpu", lambda line: None)
        highest = max(highest, private_mb())
    print(json.dumps({"shards": shards, "before": round(before), "highest": round(highest)}))


def main() -> None:
    if len(sys.argv) > 1:
        use_shards(*sys.argv[1:])
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n in PATTERNS:
            path = Path(folder) / f"scan{n}.h5"
            write_scan(path, n)
            if n == PATTERNS[0]:
                make_model(path, Path(folder))
            command = [sys.executable, __file__, str(path), folder]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
    print(json.dumps({"benchmark": "shard memory", "shard_patterns": SHARD, "private_mb": found}))


if __name__ == "__main__":
    main()
