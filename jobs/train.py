"""Trains on the Ray cluster that runs this job. Takes the arguments of ``ptycho-ray train``:

ray job submit --working-dir . -- python jobs/train.py --config configs/train/lines64.yaml --output-dir /shared/run-1
"""

import sys

from ptycho_ray.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "--ray", *sys.argv[1:]]))
