"""The learned prior: a network that takes the noise from an image of complex transmissions.

It is told the standard deviation of the noise at every pixel. Where that is zero the image passes unchanged; where it is as
large as the image, what the network returns is what it expects beside the rest.

Legend: B images, [H, W] sides of any length.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ptycho_ray.config import PRETRAINED
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path, require_file
from ptycho_ray.models.small_unet import SmallUNet

#: The prior that comes with the program; docs/prior.md says how it was made.
PRETRAINED_PRIOR = Path(__file__).parent / "pretrained_prior.safetensors"
#: What ``ptycho-ray pretrain --prior`` writes into its folder.
FILE_NAME = "prior.safetensors"
#: Noise of this standard deviation and of twice it look alike to the network.
LEAST_NOISE = 1e-3


class Denoiser(SmallUNet):
    """A small U-Net whose output is weighted by the noise.

    The result is ``skip * image + noise * skip**0.5 * network`` with ``skip = 1 / (1 + noise**2)``, so that the network has
    numbers of order one to predict at any noise (Karras et al., NeurIPS 2022).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__(3, 2, width)
        nn.init.zeros_(self.last.weight)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """The images without their noise.

        Args:
            image: complex [B, H, W], of a root mean square of about one.
            noise: standard deviation of real and of imaginary part, real [B, H, W].
        """
        skip = (1 + noise.square()).reciprocal()
        seen = torch.stack(
            [image.real * skip.sqrt(), image.imag * skip.sqrt(), noise.clamp_min(LEAST_NOISE).log() / 4], 1
        )
        parts = self.maps(seen)
        return skip * image + noise * skip.sqrt() * torch.complex(parts[:, 0], parts[:, 1])


def save_prior(path: Path, network: Denoiser) -> Path:
    """Write the weights of a prior, atomically; where."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)
    return path


def prior_path(place: str | Path) -> Path:
    """The file that ``place`` means: itself, that in a folder of ``pretrain --prior``, or the shipped one."""
    path = Path(place)
    if path == Path(PRETRAINED) and not path.exists():
        return PRETRAINED_PRIOR
    return path / FILE_NAME if path.is_dir() else path


def load_prior(place: str | Path) -> Denoiser:
    """Read the prior that ``place`` means (:func:`prior_path`).

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not a prior.
    """
    path = prior_path(place)
    require_file(path, "prior")
    try:
        weights = load_file(path)
        network = Denoiser(len(weights["first.bias"]))
        network.load_state_dict(weights)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(
            file=path,
            field="prior",
            found=str(error).splitlines()[0],
            expected="the prior.safetensors of 'ptycho-ray pretrain --prior'",
        ) from None
    return network.eval().requires_grad_(False)
