"""A live source: ``ptycho-ray watch replay://scan.npz`` sends a scan as if it were measured now."""

from collections.abc import Iterator

import ptycho_ray as pr
from ptycho_ray.live.growing_files import Ending, Frames


def replay(address: str, ending: Ending) -> Iterator[Frames]:
    """Sixteen patterns at a time, as many as are announced."""
    scan = pr.load(address.removeprefix("replay://"))
    number = min(len(scan), ending.patterns or len(scan))
    for first in range(0, number, 16):
        rows = range(first, min(first + 16, number))
        yield Frames(scan.positions_px[rows], scan.patterns.intensity(list(rows)))
