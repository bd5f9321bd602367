"""Scans in Ray's object store, where all workers of a machine read one copy."""

from __future__ import annotations

import copy

import ray

from ptycho_ray.data import RawData

#: A scan that takes up more of the object store than that stays on disk. A trial that trains on several workers puts its
#: groups beside the scan of its sweep, so it is less than half.
STORE_SHARE = 0.4


def in_memory_if_it_fits(scan: RawData) -> RawData:
    """The scan with its patterns in memory, so that they can be shared, unless the object store is too small for them."""
    room = STORE_SHARE * ray.cluster_resources().get("object_store_memory", 0)
    if scan.patterns.in_memory or scan.patterns.nbytes > room:
        return scan
    loaded = copy.copy(scan)
    loaded.patterns = scan.patterns.loaded()
    return loaded
