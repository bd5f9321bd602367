"""Trains on the Ray cluster that runs this job. Takes the arguments of ``ptycho-ray train``:

ray job submit --working-dir . -- python jobs/train.py --config configs/train/lines64.yaml --output-dir /shared/run-1
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["train", "--ray", *sys.argv[1:]]))
