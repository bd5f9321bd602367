"""How a service is stopped with nothing lost: it accepts no new work, finishes what it has, and ends. What says so is a file
in the data folder, so that every replica knows, on whatever node, and one that is started meanwhile, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import take_lock

MARK, LOCK_FILE = "draining", "serve.lock"
ASK_S = 0.5


def draining(data_dir: Path) -> bool:
    """Whether the service of this folder accepts no new work."""
    return (data_dir / MARK).exists()


def drain(data_dir: Path) -> None:
    """Accept no new work from now on."""
    (data_dir / MARK).touch(mode=0o600)


def accept(data_dir: Path) -> None:
    """Accept new work again."""
    (data_dir / MARK).unlink(missing_ok=True)


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Be the one command on this machine that serves this folder, or changes what a service must not be using.

    Raises:
        ConfigurationError: another one is at it.
    """
    lock = take_lock(data_dir / LOCK_FILE)
    if lock is None:
        raise ConfigurationError(
            field="data_dir",
            found=f"{data_dir}, which a service uses",
            expected="one that no running service uses",
            hint=f"ptycho-ray operate drain --data-dir {data_dir}",
        )
    try:
        yield
    finally:
        lock.release()


def in_use(data_dir: Path) -> bool:
    """Whether 'ptycho-ray serve' runs with this folder on this machine."""
    try:
        with only_one(data_dir):
            return False
    except ConfigurationError:
        return True


def wait_until_done(active: Callable[[], int], data_dir: Path, at_most_s: float, tell: Callable[[str], None]) -> bool:
    """Wait until nothing is ``active`` and the serving command has ended; False if that takes longer than ``at_most_s``."""
    until, last = time.monotonic() + at_most_s, -1
    while (left := active()) or in_use(data_dir):
        if left != last:
            tell(f"{left} reconstructions are waiting or running" if left else "the service is being stopped")
            last = left
        if time.monotonic() > until:
            return False
        time.sleep(ASK_S)
    return True
