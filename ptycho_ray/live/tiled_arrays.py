"""A scan in Tiled, the data service of Bluesky, while it is written there: its arrays are read as they grow."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.live.growing_files import AT_ONCE, POLL_S, Clock, Ending, Frames, Names, frames_as_they_come
from ptycho_ray.live.libraries import library

#: Addresses of Tiled begin so.
WEB = ("http://", "https://")
#: A piece of an array that is asked for at a time, at most; servers refuse more than 300 MB.
MOST_BYTES = 64 * 2**20


def tiled_client() -> Any:
    """The client of Tiled; InputError says how to get it."""
    return library("tiled.client", "an address of the web, but the client of Tiled is not installed", "tiled")


def tiled_frames(address: str, names: Names, ending: Ending) -> Iterator[Frames]:
    """Patterns and positions of arrays in Tiled, read as they appear in all of them.

    A ``stop`` document in the metadata of ``address``, as a run of Bluesky has one at its end, ends the scan. Whatever is
    missing may appear after the call.

    Args:
        address: of a run, or of another container; an API key is taken from ``TILED_API_KEY``.
        names: paths of the arrays below it, or of columns of a table: ``primary/internal/motor_y``. An array of patterns may
            have an axis of length one after the first, as each event of a run then has one frame.
    """
    client = tiled_client()
    from httpx import HTTPError

    clock = Clock(ending)
    try:
        run, stacks = _opened(client, address, names, clock)

        def state() -> tuple[list[int], bool]:
            complete = bool(run.refresh().metadata.get("stop"))  # before the lengths: nothing is written after it
            return [len(stack.refresh()) for stack in stacks], complete

        def read(piece: slice) -> list[NDArray]:
            patterns, *positions = (_read(stack, piece) for stack in stacks)
            return [patterns[:, 0] if patterns.ndim == 4 and patterns.shape[1] == 1 else patterns, *positions]

        most = MOST_BYTES // (math.prod(stacks[0].shape[1:]) * stacks[0].dtype.itemsize)
        yield from frames_as_they_come(address, state, read, clock, max(1, min(AT_ONCE, most)))
    except InputError:
        raise
    except (HTTPError, ValueError) as error:
        raise InputError(
            file=address,
            found=f"no answer of Tiled ({error})",
            expected="the address of a run",
            hint="TILED_API_KEY is the key, if it wants one",
        ) from error


def _opened(client: Any, address: str, names: Names, clock: Clock) -> tuple[Any, list[Any]]:
    """The node at an address and the arrays below it, as soon as all are there."""
    run = client.from_uri(address)
    while True:
        missing = ""
        try:
            stacks = []
            for missing in names.all:
                node = run
                for part in missing.split("/"):
                    node = node[part]
                stacks.append(node)
        except KeyError:
            if clock.over:
                raise InputError(
                    file=address,
                    field=missing,
                    found=f"only {', '.join(list(run)[:20]) or 'nothing'}",
                    expected="an array",
                ) from None
            time.sleep(POLL_S)
            run.refresh()
        else:
            other = next(
                (name for name, stack in zip(names.all, stacks, strict=True) if not hasattr(stack, "dtype")), None
            )
            if other is not None:
                raise InputError(
                    file=address, field=other, found="no array", expected="an array, or a column of a table"
                )
            return run, stacks


def _read(stack: Any, piece: slice) -> NDArray:
    """A piece of an array, cut out by the server. The client itself asks for whole blocks of the length that it knew last, and
    is refused one that has grown since."""
    answer = stack.context.http_client.get(
        stack.item["links"]["full"],
        headers={"Accept": "application/octet-stream"},
        params={"slice": f"{piece.start}:{piece.stop}"},
    )
    answer.raise_for_status()
    return np.frombuffer(answer.read(), stack.dtype).reshape(piece.stop - piece.start, *stack.shape[1:])
