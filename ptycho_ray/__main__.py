"""``python -m ptycho_ray`` and the program ``ptycho-ray``."""

import sys


def main() -> int:
    """Run the command line; the exit code."""
    from ptycho_ray.commands.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
