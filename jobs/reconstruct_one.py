"""Reconstructs one scan automatically on all workers of the Ray cluster that runs this job, also one that is larger than any of
its machines (many scans: jobs/reconstruct.py). Takes the arguments of ``ptycho-ray reconstruct``:

ray job submit --working-dir . -- python jobs/reconstruct_one.py /data/scan.h5 --output-dir /shared/image
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["reconstruct", "--workers", "auto", *sys.argv[1:]]))
