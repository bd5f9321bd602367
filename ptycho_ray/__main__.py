"""``python -m ptycho_ray`` is the program ``ptycho-ray``."""

import sys

from ptycho_ray.commands.cli import main

sys.exit(main())
