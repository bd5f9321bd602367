"""Refines one scan on the Ray cluster that runs this job, also one that is larger than any of its machines:

ray job submit --working-dir . -- python jobs/refine.py /data/scan.h5 --workers 4 --output-dir /shared/out
"""

import sys

from ptycho_ray.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["refine", *sys.argv[1:]]))
