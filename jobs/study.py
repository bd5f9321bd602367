"""Runs a generalisation study on the Ray cluster that runs this job. Takes the arguments of ``ptycho-ray study``:

ray job submit --working-dir . -- python jobs/study.py /data/train.npz /data/unseen.npz --output-dir /shared/study
"""

import sys

from ptycho_ray.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", "--workers", "auto", *sys.argv[1:]]))
