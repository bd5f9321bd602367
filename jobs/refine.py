"""Refines one scan on all workers of the Ray cluster that runs this job, also one that is larger than any of its machines.
Takes the arguments of ``ptycho-ray refine``; with ``--resume`` it goes on from the checkpoint in the output folder, if there is
one:

ray job submit --working-dir . -- python jobs/refine.py /data/scan.h5 --iterations 60 --resume --output-dir /shared/image
"""

import sys

try:
    from ptycho_ray.commands.cli import main
except ImportError as error:
    sys.exit(f"{error}: {sys.executable} runs this job; start Ray in the environment in which ptycho-ray is installed")

if __name__ == "__main__":
    sys.exit(main(["refine", "--workers", "auto", *sys.argv[1:]]))
