"""Scans in Ray's object store, where all workers of a machine read one copy."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import ray

from ptycho_ray.data import RawData
from ptycho_ray.data.contents import free_memory_bytes

#: Scans that take up more of an object store than that stay on disk. A trial that trains on several workers puts its groups
#: beside the scan of its sweep, so it is less than half.
STORE_SHARE = 0.4
#: And of the free memory of this machine, which holds them twice for a while: as they are read, and in its object store.
MEMORY_SHARE = 0.4


def in_memory_if_they_fit(scans: Sequence[RawData]) -> list[RawData]:
    """The scans with their patterns in memory, so that they can be shared; those for which there is no room any more as they
    are, on disk."""
    left, found = room_for_scans(), []
    for scan in scans:
        if not scan.patterns.in_memory and scan.patterns.nbytes <= left:
            loaded = copy.copy(scan)
            loaded.patterns = scan.patterns.loaded()
            scan = loaded
        left -= scan.patterns.nbytes if scan.patterns.in_memory else 0
        found.append(scan)
    return found


def room_for_scans() -> float:
    """Bytes of scans that every machine can hold: the smallest object store of those that compute counts, and of this one the
    store and the free memory."""
    here = ray.get_runtime_context().get_node_id()
    stores = [
        node["Resources"].get("object_store_memory", 0)
        for node in ray.nodes()
        if node["Alive"] and (node["NodeID"] == here or node["Resources"].get("CPU"))
    ]
    return min(STORE_SHARE * min(stores, default=0), MEMORY_SHARE * free_memory_bytes())
