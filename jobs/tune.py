"""Runs a sweep on the Ray cluster that runs this job. Takes the arguments of ``ptycho-ray tune``:

ray job submit --working-dir . -- python jobs/tune.py /data/scan.npz --space configs/tune/probe.yaml --output-dir /shared/sweep
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
