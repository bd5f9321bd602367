"""Python client of the reconstruction service: ``Client``, and ``AsyncClient`` for asyncio.

    with Client("http://127.0.0.1:8000") as client:
        image = client.reconstruct("scan.h5").arrays()["object"]                   # decided by the patterns
        image = client.reconstruct("scan.h5", model="lines64").arrays()["object"]  # one pass of a network

    with client.stream(N=64, dtype="uint16", on_preview=show) as stream:  # while the scan is measured
        for positions, frames in detector:
            stream.push(positions, frames)
    image = client.result(stream.job["id"])

Needs ``pip install 'ptycho-ray[client]'``; loads neither torch nor Ray. A request that is retried (after a lost
connection, or a busy or restarting service) is carried out only once, since every submission has a unique key.
"""

from __future__ import annotations

from ptycho_ray.client.requests import AsyncClient, Client, Image, OnProgress, ServiceError
from ptycho_ray.client.streams import AsyncStream, Preview, Stream, StreamError, StreamFull

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Image",
    "OnProgress",
    "Preview",
    "ServiceError",
    "Stream",
    "StreamError",
    "StreamFull",
]
