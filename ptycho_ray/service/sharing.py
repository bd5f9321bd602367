"""A link that lets others look at one job: whoever calls with its key may see and fetch it, and nothing else."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from ptycho_ray.files import atomic_path

HEADER = "x-share-key"
_FILE = "share-key"


def share(folder: Path) -> str:
    """The key of the job with this folder, made if it has none yet."""
    path = folder / _FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_path(path) as temporary:
            temporary.write_text(secrets.token_urlsafe(16))
    return path.read_text()


def opens(folder: Path, key: str) -> bool:
    """Whether this is the key of the job."""
    path = folder / _FILE
    return path.exists() and hmac.compare_digest(path.read_text().encode(), key.encode())


def unshare(folder: Path) -> None:
    """The key no longer opens the job."""
    (folder / _FILE).unlink(missing_ok=True)
