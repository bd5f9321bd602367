"""Sub-pixel translation of patches, as a product of two small matrices.

Bilinear interpolation is separable and linear, so a translated image is ``R @ image @ C.T`` where each row of ``R``
and ``C`` holds at most two non-zero weights, given by the tent function ``max(0, 1 - |distance|)``. Padding and
cropping are the same product with oblong matrices, pixels outside the image count as zero tap by tap, and the exact
gradient with respect to image and shift follows from the product itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampling_matrix(shift: Tensor, n_out: int, n_in: int, origin: float = 0.0) -> Tensor:
    """Weights that sample a line of ``n_in`` pixels at ``r + origin - shift`` for r = 0 .. n_out - 1.

    Args:
        shift: shift of the content in pixels, any shape [...]; positive moves it to larger indices.
        n_out, n_in: pixels after and before.
        origin: pixel of the input that lies under output pixel 0 when nothing is shifted.

    Returns:
        Weights [..., n_out, n_in], of the dtype of ``shift``.
    """
    target = torch.arange(n_out, device=shift.device, dtype=shift.dtype) + origin
    source = torch.arange(n_in, device=shift.device, dtype=shift.dtype)
    distance = (target - shift[..., None])[..., :, None] - source
    return torch.relu(1.0 - distance.abs())


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ images @ columns.T`` for real or complex images [..., H, W] and real matrices."""
    transposed = columns.transpose(-1, -2)
    if images.is_complex():
        real = rows @ images.real @ transposed
        imaginary = rows @ images.imag @ transposed
        return torch.complex(real, imaginary)
    return rows @ images @ transposed


def translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Move the content of images [..., H, W] by shifts [..., 2] = (row, column), bilinearly, with zeros coming in.

    ``out[r, c] = image[r - shift_row, c - shift_column]``; each of the four taps counts as zero where it lies outside,
    so a half-pixel shift halves an edge pixel.
    """
    height, width = images.shape[-2:]
    rows = sampling_matrix(shifts[..., 0], height, height)
    columns = sampling_matrix(shifts[..., 1], width, width)
    return resample(images, rows, columns)


def place_patches(patches: Tensor, shifts: Tensor, side: int) -> Tensor:
    """Put patches [..., N, N], each moved by shifts [..., 2], into the middle of empty canvases [..., side, side]."""
    n = patches.shape[-1]
    margin = (side - n) // 2
    rows = sampling_matrix(shifts[..., 0], side, n, origin=-margin)
    columns = sampling_matrix(shifts[..., 1], side, n, origin=-margin)
    return resample(patches, rows, columns)


def cut_from_canvas(canvases: Tensor, positions: Tensor, n: int) -> Tensor:
    """Cut patches [..., n, n] out of canvases [..., S, S] at positions [..., 2] relative to the canvas centre.

    The adjoint of :func:`place_patches`: patch pixel (i, j) is read at (margin + i + row, margin + j + column).
    """
    side = canvases.shape[-1]
    margin = (side - n) // 2
    rows = sampling_matrix(-positions[..., 0], n, side, origin=margin)
    columns = sampling_matrix(-positions[..., 1], n, side, origin=margin)
    return resample(canvases, rows, columns)


def centre_crop(images: Tensor, n: int) -> Tensor:
    """The central n x n pixels of images [..., H, W]."""
    top = (images.shape[-2] - n) // 2
    left = (images.shape[-1] - n) // 2
    return images[..., top : top + n, left : left + n]
