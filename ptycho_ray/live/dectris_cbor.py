"""The DECTRIS stream, second version (SIMPLON ``format: cbor``): each ZeroMQ message is one map in CBOR.

Typed and multi-dimensional arrays are those of RFC 8746 (tags 40 and 64 to 87), compressed byte strings DECTRIS's tag 56500.
github.com/dectris/documentation describes all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ptycho_ray.live.libraries import library
from ptycho_ray.live.wire_events import Begin, End, Event, Frame, Unreadable

PORT = 31001
ARRAY, COMPRESSED = 40, 56500
TYPES = {64: "|u1", 65: ">u2", 66: ">u4", 68: "|u1", 69: "<u2", 70: "<u4", 72: "|i1", 77: "<i2", 78: "<i4", 85: "<f4"}
TAGS = {np.dtype(kind): tag for tag, kind in TYPES.items() if tag != 68}


def cbor() -> Any:
    """The library that reads CBOR; InputError says how to get it."""
    return library("cbor2", "a DECTRIS stream in CBOR, but cbor2 is not installed", "live")


def decode(message: bytes, channel: str | None = None) -> Event:
    """One message of the stream.

    Args:
        channel: of a detector with several thresholds, the one that is taken; by default the first.
    """
    library = cbor()
    try:
        told = library.loads(message)
        kind = told["type"]
    except (library.CBORDecodeError, TypeError, KeyError, ValueError, EOFError) as error:
        return Unreadable(None, f"no map with a type in CBOR ({error})")
    series = str(told.get("series_unique_id") or told.get("series_id") or "")
    if kind == "start":
        return _begin(told, series)
    if kind == "end":
        return End()
    if kind != "image":
        return Unreadable(None, f"a message of type {str(kind)[:40]!r}")
    number = told.get("image_id")
    try:
        data = told["data"]
        array = data[channel if channel is not None else next(iter(data))]
        shape, typed = _tagged(array, ARRAY)
        content, encoding = typed.value, "none"
        if not isinstance(content, bytes):
            encoding, _, content = _tagged(content, COMPRESSED)
        if encoding not in ("none", "bslz4", "lz4"):
            raise ValueError(f"compression {encoding!r}")
        rows, columns = (int(side) for side in shape)
        return Frame(int(number), (rows, columns), TYPES[typed.tag], encoding, bytes(content), series)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        return Unreadable(number if isinstance(number, int) else None, f"no array ({error!r})")


def _tagged(item: Any, tag: int) -> Any:
    if getattr(item, "tag", None) != tag:
        raise ValueError(f"no tag {tag}")
    return item.value


def _begin(told: dict[str, Any], series: str) -> Event:
    def number(name: str) -> float | None:
        value = told.get(name)
        return float(value) if isinstance(value, int | float) and value > 0 else None

    rows, columns, frames = number("image_size_y"), number("image_size_x"), number("number_of_images")
    moved = told.get("detector_translation")
    row, column, largest = number("beam_center_y"), number("beam_center_x"), number("saturation_value")
    return Begin(
        series,
        None if frames is None else int(frames),
        None if rows is None or columns is None else (int(rows), int(columns)),
        number("incident_energy"),
        abs(float(moved[2])) or None if isinstance(moved, list | tuple) and len(moved) == 3 else None,
        number("pixel_size_x"),
        None if row is None or column is None else (row, column),
        None if largest is None else np.min_scalar_type(int(largest)).name,
    )


def encoded(begin: Begin, contents: Iterable[bytes], dtype: str, compression: str) -> Iterator[list[bytes]]:
    """The messages of a series, for a replay.

    Args:
        contents: of frames in this type and compression, as ``frame_encodings.deflated`` makes them.
    """
    library = cbor()
    rows, columns = begin.shape or (0, 0)
    row, column = begin.centre_px or (rows / 2, columns / 2)
    tag, item_size = TAGS[np.dtype(dtype)], np.dtype(dtype).itemsize if compression == "bslz4" else 0
    common = {"series_id": 1, "series_unique_id": begin.series}
    start = {
        "type": "start",
        **common,
        "beam_center_x": column,
        "beam_center_y": row,
        "channels": ["threshold_1"],
        "detector_translation": [0.0, 0.0, begin.detector_distance_m or 0.0],
        "image_size_x": columns,
        "image_size_y": rows,
        "incident_energy": begin.energy_eV or 0.0,
        "number_of_images": begin.frames,
        "pixel_size_x": begin.detector_pixel_m or 0.0,
        "pixel_size_y": begin.detector_pixel_m or 0.0,
        "saturation_value": int(np.iinfo(dtype).max) - 1 if np.dtype(dtype).kind == "u" else 0,
    }
    yield [library.dumps(start)]
    for number, content in enumerate(contents):
        packed: Any = content
        if compression != "none":
            packed = library.CBORTag(COMPRESSED, [compression, item_size, content])
        array = library.CBORTag(ARRAY, [[rows, columns], library.CBORTag(tag, packed)])
        yield [library.dumps({"type": "image", **common, "image_id": number, "data": {"threshold_1": array}})]
    yield [library.dumps({"type": "end", **common})]
