"""Scans in Ray's object store, where all workers of a machine read one copy."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray

from ptycho_ray.data import RawData

#: Scans that take up more of an object store than that stay on disk. A trial that trains on several workers puts its groups
#: beside the scan of its sweep, so it is less than half.
STORE_SHARE = 0.4
#: And of the free memory of this machine, which holds them twice for a while: as they are read, and in its object store.
MEMORY_SHARE = 0.4
#: Where a container finds its limit and what it uses.
CGROUP = Path("/sys/fs/cgroup")


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


def free_memory_bytes() -> int:
    """Memory that this process could still use: of the machine, or of its container if that has less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, StopIteration, ValueError):  # not on Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit, used = (int((CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    return free
