"""Writing files atomically, so that a reader never sees a partial one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_ray.errors import DiskFullError, InputError, MissingFileError

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: Of a folder that is given in place of a file, so many files are named.
FILES_NAMED = 5
FULL_BYTES = 2**16
"""A disk with less room than this is full: not every library says why it could not write."""
PART_BYTES, PARTS = 2**30, "1GiB-parts:"
"""A larger file is read in parts of this size; the word stands before a checksum that is made of theirs."""

Part = tuple[Path, int]
"""A file and the number of a part of it."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` that is renamed to it when the block ends without an error.

    The temporary file keeps the suffix of ``path``. On any error it is removed and whatever ``path`` held before stays
    untouched. DiskFullError where there is no room, whatever the library that writes calls it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        free = shutil.disk_usage(path.parent).free  # while the part that was written still takes its room
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or (free < FULL_BYTES and isinstance(error, Exception) and not isinstance(error, InputError)):
            raise DiskFullError(path, free) from error
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def take_lock(path: str | Path) -> BaseFileLock | None:
    """The lock of this file, held until it is released or forgotten or this process ends; None if it is held elsewhere."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n", encoding="utf-8")


def require_file(path: str | Path, field: str = "file") -> Path:
    """Return ``path`` as a Path, or raise MissingFileError if it is not an existing file."""
    path = Path(path)
    if not path.is_file():
        found, expected = "nothing", "an existing file"
        if path.is_dir():
            names = sorted(each.name for each in path.iterdir() if each.is_file())
            listed = f"{', '.join(names[:FILES_NAMED])}{' ...' if len(names) > FILES_NAMED else ''}" or "no file"
            found, expected = f"a folder with {listed}", "a file"
        raise MissingFileError(file=path, field=field, found=found, expected=expected)
    return path


def jsonable(value: Any) -> Any:
    """``value`` in the types of JSON at any depth: paths as text, numpy values as numbers and lists, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short_text(value: Any, nothing: str = "-") -> str:
    """``value`` for a table: a number with four digits, yes or no, lists with commas, ``nothing`` for None."""
    if value is None:
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(short_text(item, nothing) for item in value)
    return str(value)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal; of a folder, that of the names and contents of its files."""
    if Path(path).is_dir():
        lines = [f"{each.name} {sha256_of(each)}\n" for each in sorted(Path(path).iterdir()) if each.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_part(path: Path, number: int) -> bytes:
    """SHA-256 of the part of a file that begins ``number`` times ``PART_BYTES`` after its beginning."""
    digest, left = hashlib.sha256(), PART_BYTES
    with path.open("rb") as stream:
        stream.seek(number * PART_BYTES)
        while left and (piece := stream.read(min(left, 2**20))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()


def digests_in_threads(parts: Sequence[Part]) -> list[bytes]:
    """The digests of parts of files, several at a time: more would be in each other's way on a disk."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(digest_of_part, *zip(*parts, strict=True))) if parts else []


def checksums_of(
    paths: Iterable[str | Path], digests_of: Callable[[Sequence[Part]], list[bytes]] = digests_in_threads
) -> dict[str, str]:
    """What tells that files are the same: the SHA-256 of each (:func:`sha256_of`). If it has more than ``PART_BYTES``, that of
    the digests of its parts, which several can read at once, after the word ``1GiB-parts:``.

    Args:
        digests_of: the digests of parts of files.
    """
    parts: dict[str, list[Part]] = {}
    for path in map(Path, paths):
        count = 0 if path.is_dir() else max(1, math.ceil(path.stat().st_size / PART_BYTES))
        parts[str(path)] = [(path, number) for number in range(count)]
    digests, found = iter(digests_of([part for each in parts.values() for part in each])), {}
    for name, each in parts.items():
        made = [next(digests) for _ in each]
        of_parts = PARTS + hashlib.sha256(b"".join(made)).hexdigest()
        found[name] = sha256_of(name) if not made else made[0].hex() if len(made) == 1 else of_parts
    return found


def package_version(package: str) -> str | None:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
