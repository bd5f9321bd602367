"""Reconstructs scans on the Ray cluster that runs this job: automatically, one task a scan, or with a trained model in shards
that any loss leaves whole:

ray job submit --working-dir . -- python jobs/reconstruct.py /data/a.h5 /data/b.h5 --output-dir /shared/out
ray job submit --working-dir . -- python jobs/reconstruct.py /data/scan.h5 --model-path /shared/run-1 --output-dir /shared/out
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["reconstruct-scans", *sys.argv[1:]]))
