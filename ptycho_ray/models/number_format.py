"""Number format of convolutions on a GPU of NVIDIA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def convolutions(*, tf32: bool) -> Iterator[None]:
    """Convolve numbers of 32 bits as they are, or rounded to TF32 (10 bits of mantissa), within the block.

    TF32 is torch's own default for convolutions, not for matrix products; those of the physics keep all their bits either way.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.allow_tf32 = before
