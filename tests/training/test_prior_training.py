"""Training of the prior: images differ and repeat with the seed, and what is trained can be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.models.denoiser import load_prior
from ptycho_ray.training.prior_training import MOST_NOISE, PICTURES, Pools, noisy_image


@pytest.fixture(scope="module")
def pools() -> Pools:
    return Pools.drawn(np.random.default_rng(0))


def test_images_have_the_noise_that_is_told_and_any_phase(pools: Pools) -> None:
    parts = [noisy_image(np.random.default_rng((0, number)), pools, 64) for number in range(40)]
    for truth, seen, noise in parts:
        assert np.mean(np.abs(truth) ** 2) == pytest.approx(1, rel=1e-5)
        assert 0.7 < np.std((seen - truth) / noise) / np.sqrt(2) < 1.4
        assert noise.max() <= MOST_NOISE
    phases = np.array([np.angle(truth.mean()) for truth, _, _ in parts])
    assert abs(np.exp(1j * phases).mean()) < 0.5
    again = noisy_image(np.random.default_rng((0, 3)), pools, 64)
    assert all(np.array_equal(one, other) for one, other in zip(parts[3], again, strict=True))


def test_pictures_of_the_benchmarks_are_unseen() -> None:
    assert not {"astronaut", "brick", "camera", "chelsea", "coffee", "rocket"} & set(PICTURES)


def test_the_command_trains_a_prior_that_can_be_read(tmp_path: Path) -> None:
    words = "--prior --width 4 --side 16 --nepochs 2 --images-per-epoch 32 --validation-images 4 --output-dir"
    assert main(["pretrain", *words.split(), str(tmp_path / "made")]) == 0
    assert load_prior(tmp_path / "made").width == 4
    result = json.loads((tmp_path / "made/result.json").read_text())
    assert result["error"] > 0
    assert Path(result["prior"]).name == "prior.safetensors"
