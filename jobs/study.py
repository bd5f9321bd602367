"""Runs a generalisation study on the Ray cluster that runs this job. Takes the arguments of ``ptycho-ray study``:

ray job submit --working-dir . -- python jobs/study.py /data/train.npz /data/unseen.npz --output-dir /shared/study
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["study", "--workers", "auto", *sys.argv[1:]]))
