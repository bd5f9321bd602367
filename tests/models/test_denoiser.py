"""The learned prior: without noise nothing changes, noise goes, and files that are none are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ptycho_ray.errors import InputError, MissingFileError
from ptycho_ray.models.denoiser import FILE_NAME, PRETRAINED_PRIOR, Denoiser, load_prior, prior_path, save_prior
from ptycho_ray.simulation.objects import make_object


def random_images(side: tuple[int, int]) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(2, *side)) + 1j * rng.normal(size=(2, *side))).to(torch.complex64)


@torch.no_grad()
def test_without_noise_the_image_passes_unchanged_at_any_side() -> None:
    network = load_prior("pretrained")
    for side in ((16, 16), (33, 18), (21, 40)):
        images = random_images(side)
        assert torch.equal(network(images, torch.zeros(2, *side)), images)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "least"), [("siemens", 0.8), ("lines", 0.7)])
def test_the_shipped_prior_takes_noise_from_objects_of_any_phase(kind: str, least: float) -> None:
    rng = np.random.default_rng(1)
    truth = torch.from_numpy(make_object(kind, (96, 96), rng))
    truth = truth / truth.abs().square().mean().sqrt()
    noise = torch.full(truth.shape, 0.15)
    for angle in (0.0, 1.0, 3.0):
        turned = truth * np.exp(1j * angle)
        grain = torch.from_numpy(rng.normal(size=(2, *truth.shape))).float()
        seen = turned + noise * torch.complex(*grain)
        found = load_prior("pretrained")(seen[None], noise[None])[0]
        assert (found - turned).norm() < least * (seen - turned).norm()


def test_a_prior_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = Denoiser(width=4)
    path = save_prior(tmp_path / FILE_NAME, network)
    for place in (path, tmp_path):
        weights = load_prior(place).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


def test_the_shipped_one_is_small() -> None:
    assert prior_path("pretrained") == PRETRAINED_PRIOR
    assert PRETRAINED_PRIOR.stat().st_size < 4e6


def test_what_is_no_prior_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nothing"):
        load_prior(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"first.bias": torch.zeros(4)}, tmp_path / "other.safetensors")
    for name in ("text", "other"):
        with pytest.raises(InputError, match="pretrain --prior"):
            load_prior(tmp_path / f"{name}.safetensors")
