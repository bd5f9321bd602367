"""One process of a refinement that tests/test_refinement_parallel.py starts."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from ptycho_ray.refinement.solver import refine
from ptycho_ray.training.parallel import DataParallel


def main(folder: Path, size: int, rank: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    scan, config = pickle.loads((folder / "task.pickle").read_bytes())
    result = refine(scan, config, parallel=DataParallel(rank, size))
    if rank == 0:
        (folder / "result.pickle").write_bytes(pickle.dumps(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
