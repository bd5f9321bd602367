"""Reconstructs scans, automatically or with a trained model, and judges the images, each scan a task of the Ray cluster that
runs this job:

ray job submit --working-dir . -- python jobs/evaluate.py /data/scan.npz --model-path /shared/run-1 --output-dir /shared/images
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["evaluate-scans", *sys.argv[1:]]))
