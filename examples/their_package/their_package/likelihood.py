"""A likelihood that forgives outliers: ``ptycho-ray train scan.npz --likelihood student --nll-weight 0``."""

import torch
from torch import Tensor


def student(rate: Tensor, counts: Tensor) -> Tensor:
    """Student's t with four degrees of freedom of the difference of amplitudes, whose variance is 1/4; a figure a pixel."""
    difference = 2 * ((rate + 1e-6).sqrt() - counts.sqrt())
    return 2.5 * torch.log1p(difference.square() / 4)
