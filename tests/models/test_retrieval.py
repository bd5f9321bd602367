"""The single-shot retrieval that a network improves, the network around it, and patterns of other sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ray.config import ModelConfig
from ptycho_ray.config.model import WHOLE_SCANS
from ptycho_ray.data import Normalisation
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.models.conditioning import PROBE_CHANNELS, retrieval_channels
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.registry import ARCHITECTURES, build_network
from ptycho_ray.models.retrieval import better_explained, single_shot_retrieval
from ptycho_ray.physics.agreement import in_phase, object_error
from ptycho_ray.physics.diffraction import diffraction_intensity
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.workflow import reassemble_cdi_image, train_cdi_model


def aberrated_probe(modes: int = 1, photons: float = 1e6) -> torch.Tensor:
    probe = make_probe("zernike", 32, np.random.default_rng(1), diameter_px=14.0, modes=modes, photons=photons)
    return torch.from_numpy(probe)


def smooth_objects(number: int) -> torch.Tensor:
    rng = np.random.default_rng(2)
    drawn = [
        make_object("lines", (32, 32), rng, amplitude_range=(0.6, 0.9), phase_range=(0, 0.4)) for _ in range(number)
    ]
    return torch.from_numpy(np.stack(drawn))


def error(patches: torch.Tensor, truth: torch.Tensor, probe: torch.Tensor) -> float:
    weight = probe.abs().square().sum(dim=0).sqrt()
    return float(object_error(in_phase(patches, truth, weight), truth, weight).mean())


@pytest.mark.parametrize("modes", [1, 2])
def test_a_pattern_without_noise_and_its_probe_tell_the_object(modes: int) -> None:
    probe, truth = aberrated_probe(modes), smooth_objects(4)
    photons = diffraction_intensity(truth[:, None] * probe)
    errors = [error(single_shot_retrieval(photons, probe, 0.75, steps)[0], truth, probe) for steps in (0, 20, 200)]
    assert errors[0] > 10 * errors[1] > 10 * errors[2]
    assert errors[2] < 0.01


def test_what_is_known_of_an_object_is_kept_and_tells_the_rest() -> None:
    """Under a probe as wide as its window a complex object has twice as many unknowns as its pattern has pixels."""
    probe = torch.from_numpy(make_probe("zernike", 32, np.random.default_rng(1), diameter_px=30.0, photons=1e8))
    truth = smooth_objects(3).abs().to(torch.complex64)
    photons = diffraction_intensity(truth[:, None] * probe)
    free = single_shot_retrieval(photons, probe, 0.75, 60)[0]
    real = single_shot_retrieval(photons, probe, 0.75, 60, lambda patches: patches.real.to(patches.dtype))[0]
    assert not real.imag.any()
    assert error(real, truth, probe) < 0.5 * error(free, truth, probe)


def test_where_no_light_is_the_object_keeps_its_level() -> None:
    probe, truth = aberrated_probe(), smooth_objects(1)
    near_light = torch.nn.functional.max_pool2d(probe.abs(), 9, stride=1, padding=4)[0]  # within 4 pixels
    dark = near_light < 1e-6 * probe.abs().max()
    retrieved, step = single_shot_retrieval(diffraction_intensity(truth[:, None] * probe), probe, 0.75, 20)
    assert dark.sum() > 100
    torch.testing.assert_close(retrieved[0][dark], torch.full((int(dark.sum()),), 0.75 + 0j), atol=1e-4, rtol=0)
    assert float(step[0][dark].abs().max()) < 1e-4


def test_more_light_changes_nothing_but_the_noise() -> None:
    probe, truth = aberrated_probe(photons=1e10), smooth_objects(2)
    photons = diffraction_intensity(truth[:, None] * probe)
    weak = single_shot_retrieval(photons, probe, 0.75, 10)[0]
    strong = single_shot_retrieval(100 * photons, 10 * probe, 0.75, 10)[0]
    torch.testing.assert_close(weak, strong, atol=1e-4, rtol=0)


def test_at_a_low_dose_the_noise_is_not_drawn() -> None:
    """At a few photons a pixel a flat object is nearer to the truth than one that explains the noise."""
    probe, truth = aberrated_probe(photons=2e3), smooth_objects(4)
    photons = torch.poisson(diffraction_intensity(truth[:, None] * probe), generator=torch.Generator().manual_seed(0))
    level = float(truth.abs().mean())
    errors = [error(single_shot_retrieval(photons, probe, level, steps)[0], truth, probe) for steps in (0, 30, 300)]
    assert max(errors[1:]) < errors[0]


def test_a_pattern_without_photons_is_no_division_by_zero() -> None:
    retrieved, step = single_shot_retrieval(torch.zeros(1, 32, 32), aberrated_probe(), 1.0, 5)
    assert torch.isfinite(torch.view_as_real(retrieved)).all()
    assert torch.isfinite(torch.view_as_real(step)).all()


def test_each_pattern_decides_whether_what_a_network_made_of_its_object_is_taken() -> None:
    probe, truth = aberrated_probe(), smooth_objects(2)
    photons = diffraction_intensity(truth[:, None] * probe)
    retrieved = single_shot_retrieval(photons, probe, 0.75, 20)[0]
    alone = better_explained(photons, probe, 0.75, 20, retrieved, retrieved)
    assert error(alone, truth, probe) < error(retrieved, truth, probe)  # it went on
    right_and_wrong = torch.stack([truth[0], -truth[1]])
    taken = better_explained(photons, probe, 0.75, 20, retrieved, right_and_wrong)
    assert error(taken[:1], truth[:1], probe) < 0.2 * error(alone[:1], truth[:1], probe)
    torch.testing.assert_close(taken[1], alone[1], rtol=0, atol=0)


def test_a_network_that_makes_things_worse_costs_nothing_once_trained() -> None:
    config = ModelConfig(N=32, architecture="unet", fno_width=4, probe_conditioning="retrieval", retrieval_steps=10)
    probe, truth = aberrated_probe(), smooth_objects(2)
    photons = diffraction_intensity(truth[:, None] * probe)[:, None]
    scales = Normalisation(1.0, 0.05, 1.3, float(photons.sum(dim=(-2, -1)).mean()), 1e6)
    torch.manual_seed(0)
    model = PhysicsInformedModel(config, scales, probe)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.2
        wrong = model.transmission_patches(photons)[:, 0]
        kept = model.eval().transmission_patches(photons)[:, 0]
    alone = error(model.retrieved(photons)[0][:, 0], truth, probe)
    assert error(wrong, truth, probe) > 2 * alone
    assert error(kept, truth, probe) <= alone


def test_what_the_network_is_shown_has_no_units() -> None:
    probe, truth = aberrated_probe(), smooth_objects(2)[:, None]
    shown = retrieval_channels(truth, truth / 10, probe, 0.75)
    assert shown.shape == (2, 4 + PROBE_CHANNELS, 32, 32)
    brighter = retrieval_channels(2 * truth, truth / 5, probe / 2, 1.5)
    torch.testing.assert_close(shown, brighter)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "cnn" and name not in WHOLE_SCANS])
def test_an_untrained_network_of_any_kind_yields_what_was_retrieved(name: str) -> None:
    config = ModelConfig(
        N=32, architecture=name, n_filters_scale=1, fno_width=8, ffno_encoder_blocks=2, probe_conditioning="retrieval"
    )
    probe, truth = aberrated_probe(), smooth_objects(3)
    photons = diffraction_intensity(truth[:, None] * probe)[:, None]
    scales = Normalisation(1.0, 0.05, 1.3, float(photons.sum(dim=(-2, -1)).mean()), 1e6)
    torch.manual_seed(0)
    model = PhysicsInformedModel(config, scales, probe)
    with torch.no_grad():
        found = error(model.transmission_patches(photons)[:, 0], truth, probe)
        shown = error(model.retrieved(photons)[0][:, 0], truth, probe)
    assert found == pytest.approx(shown, rel=1e-4)


def test_the_cnn_cannot_improve_a_retrieved_object() -> None:
    with pytest.raises(ConfigurationError, match="'cnn' with probe_conditioning 'retrieval'.*'unet'"):
        build_network(ModelConfig(N=32, probe_conditioning="retrieval"))


def test_a_network_improves_what_was_retrieved() -> None:
    probe, truth = aberrated_probe(), smooth_objects(4)
    photons = diffraction_intensity(truth[:, None] * probe)[:, None]
    scales = Normalisation(1.0, 0.05, 1.3, float(photons.sum(dim=(-2, -1)).mean()), 1e6)
    torch.manual_seed(0)
    config = ModelConfig(N=32, architecture="unet", fno_width=8, probe_conditioning="retrieval", retrieval_steps=5)
    model = PhysicsInformedModel(config, scales, probe)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=1e-3)
    errors = []
    for _ in range(40):
        optimizer.zero_grad()
        patches = model.transmission_patches(photons)[:, 0]
        weight = probe.abs().square().sum(dim=0).sqrt()
        loss = object_error(in_phase(patches, truth, weight), truth, weight).mean()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.85 * errors[0]


def test_a_network_serves_patterns_of_another_side(small_scan: Any, tiny_config: Any) -> None:
    """Trained on patterns of side 32, and applied to the same scan with frames padded by dark pixels of 40 x 40."""
    model = replace(tiny_config.model, architecture="unet", fno_width=8, probe_conditioning="retrieval")
    config = replace(tiny_config, model=model)
    trained = train_cdi_model(small_scan, None, config)["model_instance"]
    larger = oversampled(small_scan)
    images = [
        reassemble_cdi_image(scan, config, model=trained, keep_patches=False)[2]["stitched"]
        for scan in (small_scan, larger)
    ]
    assert images[1].image.shape[0] == images[0].image.shape[0] + 8
    pieces = [image.image[12:-12, 12:-12] for image in (images[0], replace_edge(images[1]))]
    overlap = abs(np.vdot(*pieces)) / (np.linalg.norm(pieces[0]) * np.linalg.norm(pieces[1]))
    assert overlap > 0.98
    fixed = replace(config, model=replace(model, architecture="hybrid_resnet"))
    other = train_cdi_model(small_scan, None, replace(fixed, nepochs=1))["model_instance"]
    with pytest.raises(InputError, match="found patterns of side 40; expected N = 32"):
        reassemble_cdi_image(larger, fixed, model=other)


def oversampled(scan: Any) -> Any:
    """The scan as a detector with 40 x 40 finer pixels over the same angle would see it: a probe in a wider window."""
    from ptycho_ray.simulation.simulate import simulate_scan

    probe = np.pad(scan.probe, [(0, 0), (4, 4), (4, 4)])
    image = np.pad(scan.object_truth, 4, mode="edge")
    return simulate_scan(image, probe, scan.positions_px + 4, rng=np.random.default_rng(0))


def replace_edge(stitched: Any) -> Any:
    """The image without the four more pixels that a wider window has at each side."""
    return replace(stitched, image=stitched.image[4:-4, 4:-4])
