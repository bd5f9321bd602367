"""One process of a training that tests/test_parallel.py starts."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.workflow import train_cdi_model


def main(folder: Path, size: int, rank: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    scans, config, execution = pickle.loads((folder / "task.pickle").read_bytes())
    results = train_cdi_model(scans, None, config, execution=execution, parallel=DataParallel(rank, size))
    if rank == 0:
        (folder / "history.pickle").write_bytes(pickle.dumps(results["history"]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
