"""Reconstructs scans, automatically or with a trained model, and judges the images, each scan a task of the Ray cluster that
runs this job:

ray job submit --working-dir . -- python jobs/evaluate.py /data/scan.npz --model-path /shared/run-1 --output-dir /shared/images
"""

import sys

from ptycho_ray.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate-scans", *sys.argv[1:]]))
