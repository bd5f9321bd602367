"""Networks that draw nothing are reported, once and in words; those that draw an image are not."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptycho_ray.evaluation.explained import noise_misfit
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.health import EPOCHS_IN_A_ROW, FIGURES, diagnose
from ptycho_ray.workflow import create_ptycho_data_container, physical_probe, train_cdi_model


class ForcedNetwork(nn.Module):
    """Answers with the same patch of amplitude and phase, moved by a distance of its own for every pattern; one number of
    it can be trained."""

    def __init__(self, amplitude: Tensor, phase: Tensor) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))
        self.amplitude, self.phase = amplitude, phase

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        distances = (1e3 * x.sum(dim=(1, 2, 3))).long().tolist()
        amplitude, phase = (
            torch.stack([patch.roll(distance % 32, dims=0) for distance in distances])[:, None]
            for patch in (self.amplitude, self.phase)
        )
        return self.level * amplitude, phase


def forced(scan, config, amplitude: Tensor, phase: Tensor) -> PhysicsInformedModel:
    container = create_ptycho_data_container(scan, config)
    network = ForcedNetwork(amplitude, phase)
    return PhysicsInformedModel(config.model, container.normalisation, physical_probe(container), network)


FLAT, NOISE = torch.ones(32, 32), torch.rand(32, 32, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("amplitude", "phase", "words"),
    [
        (FLAT, 0 * FLAT, "flat object"),
        (FLAT, NOISE, "flat amplitude"),
        (0.5 + NOISE, 0 * FLAT, "flat phase"),
        (FLAT, torch.pi * FLAT, "saturated"),
        (0.5 + NOISE, NOISE, "no better than an empty beam"),
    ],
)
def test_a_collapsed_network_is_reported_once(small_scan, tiny_config, caplog, amplitude, phase, words):
    config = replace(tiny_config, nepochs=EPOCHS_IN_A_ROW + 2)
    model = forced(small_scan, config, amplitude, phase)
    with caplog.at_level(logging.WARNING):
        results = train_cdi_model(small_scan, None, config, initial=model)
    told = [record.message for record in caplog.records if "network" in record.message]
    assert len(told) == 1
    assert f"after epoch {EPOCHS_IN_A_ROW}:" in told[0]
    assert words in told[0]
    assert "execution.learning_rate" in told[0]
    assert results["warnings"] == [told[0].partition(": ")[2]]


class KnowingNetwork(nn.Module):
    """Recognises each pattern of a scan and answers with the true object there."""

    def __init__(self, inputs: Tensor, truth: Tensor) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(1.0))
        self.inputs, self.truth = inputs, truth

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.cdist(x.flatten(1), self.inputs.flatten(1)).argmin(dim=1)
        patches = self.truth[found]
        return self.level * patches.abs(), patches.angle()


def test_a_network_that_draws_the_object_is_not_reported(small_scan, tiny_config, caplog):
    config = replace(tiny_config, nepochs=EPOCHS_IN_A_ROW + 2)
    container = create_ptycho_data_container(small_scan, config)
    photons = torch.from_numpy(container.batch(np.arange(len(container)))[0])
    truth = torch.from_numpy(small_scan.truth_patches(container.nn_indices))
    network = KnowingNetwork(container.normalisation.input_scale * photons.sqrt(), truth)
    model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container), network)
    model.log_object_scale.data.zero_()
    with caplog.at_level(logging.WARNING):
        results = train_cdi_model(small_scan, None, config, initial=model)
    assert results["warnings"] == []
    assert not [record for record in caplog.records if "network" in record.message]
    history = results["history"]
    assert set(FIGURES) <= history.keys()
    assert min(history["explained_share"]) > 0.7
    assert min(history["amplitude_contrast"]) > 0.02


def test_the_noise_is_that_of_poisson_counts(rng):
    for rate in (0.0, 0.01, 0.7, 5.0, 1e4):
        drawn = rng.poisson(rate, 200_000)
        measured = np.mean(2 * (np.sqrt(rate) - np.sqrt(drawn)) ** 2)
        assert float(noise_misfit(np.array(rate))) == pytest.approx(measured, rel=0.02, abs=1e-12)


def test_each_scan_is_watched(small_scan, other_scan, tiny_config):
    history = train_cdi_model([small_scan, other_scan], None, replace(tiny_config, nepochs=1))["history"]
    assert {"explained_share/scan-1", "explained_share/scan-2"} <= history.keys()


def test_a_weak_object_in_noisy_patterns_is_no_reason_to_complain():
    flat = {"amplitude_contrast": [0.001] * 5, "phase_spread_rad": [0.001] * 5, "saturated_share": [0.0] * 5}
    assert diagnose({**flat, "explained_share": [1.0] * 5}, 5) is None
    assert diagnose({name: values[:2] for name, values in flat.items()} | {"explained_share": [0.0] * 2}, 5) is None
    assert diagnose({**flat, "explained_share": [0.0, 0.0, 0.5]}, 5) is None
    assert "flat object" in str(diagnose({**flat, "explained_share": [0.0] * 5}, 5))
    assert diagnose({**flat, "explained_share": [0.0] * 5}, 50) is None
    of_scan = {f"{name}/b": values for name, values in {**flat, "explained_share": [0.0] * 5}.items()}
    assert "(scan b)" in str(diagnose(of_scan, 5, "/b"))
