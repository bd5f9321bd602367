"""Runs a sweep on the Ray cluster that runs this job. Takes the arguments of ``ptycho-ray tune``:

ray job submit --working-dir . -- python jobs/tune.py /data/scan.npz --space configs/tune/probe.yaml --output-dir /shared/sweep
"""

import sys

from ptycho_ray.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
