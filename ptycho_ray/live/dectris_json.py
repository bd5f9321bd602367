"""The DECTRIS stream, first version (SIMPLON ``format: legacy``): ZeroMQ messages of several parts with JSON headers.

| message | parts |
| --- | --- |
| start | ``dheader-1.0``; unless ``header_detail`` is none the configuration; with ``all`` three pairs of header and table |
| image | ``dimage-1.0``, ``dimage_d-1.0``, the content, ``dconfig-1.0``; perhaps an appendix |
| end | ``dseries_end-1.0`` |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ptycho_ray.live.frame_encodings import bare_lz4, framed_lz4
from ptycho_ray.live.wire_events import Begin, End, Event, Frame, Unreadable

PORT = 9999
ENCODING = re.compile(r"(?:bs(8|16|32))?-?(lz4)?([<>]?)")
TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")


def decode(parts: Sequence[bytes]) -> Event:
    """One message of the stream."""
    number = None
    try:
        told = json.loads(parts[0])
        kind, series = told["htype"], str(told.get("series", ""))
        if kind == "dheader-1.0":
            return _begin(parts, series)
        if kind == "dseries_end-1.0":
            return End()
        if kind != "dimage-1.0":
            return Unreadable(None, f"a message of type {str(kind)[:40]!r}")
        number = int(told["frame"])
        return _frame(json.loads(parts[1]), parts[2], number, series)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return Unreadable(number, f"no message of the DECTRIS stream ({error!r})")


def _frame(about: dict[str, Any], content: bytes, number: int, series: str) -> Event:
    if about.get("htype") != "dimage_d-1.0":
        return Unreadable(number, f"a header {str(about.get('htype'))[:40]!r} instead of dimage_d-1.0")
    found = ENCODING.fullmatch(str(about.get("encoding", "")))
    sides = [int(side) for side in about["shape"]]
    if found is None or about["type"] not in TYPES or len(sides) not in (2, 3) or (len(sides) == 3 and sides[2] != 1):
        named = ", ".join(f"{name} {str(about.get(name))[:40]}" for name in ("encoding", "type", "shape"))
        return Unreadable(number, f"frames of {named}")
    shuffled, packed, order = found.groups()
    dtype = np.dtype(about["type"]).newbyteorder(order or "<")
    if shuffled:
        encoding = "bslz4"
    elif packed:
        encoding, content = "lz4", framed_lz4(content, sides[0] * sides[1] * dtype.itemsize)
    else:
        encoding = "none"
    return Frame(number, (sides[1], sides[0]), dtype.str, encoding, content, series)


def _begin(parts: Sequence[bytes], series: str) -> Event:
    said: dict[str, Any] = {}
    if len(parts) > 1 and json.loads(parts[0]).get("header_detail") != "none":
        said = json.loads(parts[1])

    def number(name: str) -> float | None:
        value = said.get(name)
        return float(value) if isinstance(value, int | float) and value > 0 else None

    rows, columns = number("y_pixels_in_detector"), number("x_pixels_in_detector")
    row, column = number("beam_center_y"), number("beam_center_x")
    images, bits = number("nimages"), number("bit_depth_image")
    return Begin(
        series,
        None if images is None else int(images * (number("ntrigger") or 1)),
        None if rows is None or columns is None else (int(rows), int(columns)),
        number("photon_energy"),
        number("detector_distance"),
        number("x_pixel_size"),
        None if row is None or column is None else (row, column),
        f"uint{bits:.0f}" if bits in (8, 16, 32) else None,
    )


def encoded(begin: Begin, contents: Iterable[bytes], dtype: str, compression: str) -> Iterator[list[bytes]]:
    """The messages of a series, for a replay.

    Args:
        contents: of frames in this type and compression, as ``frame_encodings.deflated`` makes them.
    """
    rows, columns = begin.shape or (0, 0)
    facts = {
        "x_pixels_in_detector": columns,
        "y_pixels_in_detector": rows,
        "nimages": begin.frames,
        "ntrigger": 1,
        "photon_energy": begin.energy_eV,
        "detector_distance": begin.detector_distance_m,
        "x_pixel_size": begin.detector_pixel_m,
        "y_pixel_size": begin.detector_pixel_m,
        "bit_depth_image": 8 * np.dtype(dtype).itemsize if np.dtype(dtype).kind == "u" else None,
    }
    yield [
        _json(htype="dheader-1.0", series=1, header_detail="basic"),
        _json(**{name: value for name, value in facts.items() if value is not None}),
    ]
    encoding = {"bslz4": f"bs{8 * np.dtype(dtype).itemsize}-lz4<", "lz4": "lz4<", "none": "<"}[compression]
    about = {"shape": [columns, rows], "type": np.dtype(dtype).name, "encoding": encoding}
    for number, framed in enumerate(contents):
        content = bare_lz4(framed) if compression == "lz4" else framed
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        yield [
            _json(htype="dimage-1.0", series=1, frame=number, hash=digest),
            _json(htype="dimage_d-1.0", **about, size=len(content)),
            content,
            _json(htype="dconfig-1.0", start_time=0, stop_time=0, real_time=0),
        ]
    yield [_json(htype="dseries_end-1.0", series=1)]


def _json(**content: Any) -> bytes:
    return json.dumps(content).encode()
