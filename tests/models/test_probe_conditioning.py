"""A network that sees the probe: what it sees, and that the right probe reaches it everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ray.bundle import Bundle, load_bundle, save_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.config.model import WHOLE_SCANS
from ptycho_ray.models.conditioning import PROBE_CHANNELS, input_channels, probe_channels
from ptycho_ray.models.registry import ARCHITECTURES, build_network
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.workflow import (
    create_ptycho_data_container,
    groups_to_reconstruct,
    model_for_groups,
    model_for_scan,
    physical_probe,
    reassemble_cdi_image,
    run_cdi_example,
    train_cdi_model,
)


@pytest.fixture(scope="module")
def gaussian_scan() -> Any:
    """A scan with a probe of another shape and strength than those of small_scan."""
    rng = np.random.default_rng(8)
    probe = make_probe("gaussian", 32, rng, diameter_px=16.0, photons=3e5)
    return simulate_scan(make_object("lines", (80, 80), rng), probe, rng.uniform(17, 63, (30, 2)), rng=rng)


@pytest.fixture
def conditioned(tiny_config: Any) -> Any:
    return replace(tiny_config, model=replace(tiny_config.model, probe_conditioning="channels"))


def test_what_the_network_sees_of_a_probe(rng: np.random.Generator) -> None:
    probe = torch.from_numpy(make_probe("zernike", 32, rng, modes=2, photons=1e5))
    seen = probe_channels(probe, 0.05)
    assert seen.shape == (PROBE_CHANNELS, 32, 32)
    assert seen.dtype == torch.float32
    assert float((seen[0].square() + seen[1].square()).max()) == pytest.approx(1.0, rel=1e-5)
    # The third channel has the units of the patterns: an empty object diffracts just that.
    assert float(seen[2].square().sum()) == pytest.approx(0.05**2 * 1e5, rel=1e-4)


def test_neither_phase_nor_photons_of_a_probe_change_its_wave(rng: np.random.Generator) -> None:
    probe = torch.from_numpy(make_probe("zernike", 32, rng, photons=1e5))
    turned = probe_channels(probe * (3 * np.exp(1.7j)), 0.05 / 3)
    torch.testing.assert_close(turned, probe_channels(probe, 0.05), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in WHOLE_SCANS])
def test_every_network_takes_the_channels(name: str, tiny_config: Any) -> None:
    few = {"fno_width": 8, "ffno_encoder_blocks": 2, "architecture": name}
    plain = replace(tiny_config.model, **few)
    config = replace(plain, probe_conditioning="channels")
    assert input_channels(config) == input_channels(plain) + PROBE_CHANNELS
    x = torch.rand(1, input_channels(config), 32, 32)
    network = build_network(config)
    patches = []
    for other in (x, torch.cat([x[:, :1], 2 * x[:, 1:]], dim=1)):
        predicted = network(other)
        patches.append(predicted if isinstance(predicted, torch.Tensor) else torch.polar(*predicted))
    assert not torch.allclose(patches[0], patches[1])


def test_training_shows_each_scan_its_own_probe(
    small_scan: Any, gaussian_scan: Any, conditioned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def record(probe: torch.Tensor, input_scale: float) -> torch.Tensor:
        channels = probe_channels(probe, input_scale)
        seen.append(round(float(channels[2].sum()), 3))
        return channels

    monkeypatch.setattr("ptycho_ray.models.physics_informed.probe_channels", record)
    results = train_cdi_model([small_scan, gaussian_scan], None, conditioned)
    expected = {
        round(float(probe_channels(model.probe, model.normalisation.input_scale)[2].sum()), 3)
        for model in results["models"].values()
    }
    assert set(seen) == expected
    assert len(expected) == 2


def test_another_scan_is_reconstructed_with_its_own_probe(
    small_scan: Any, gaussian_scan: Any, conditioned: Any, tmp_path: Any
) -> None:
    trained = train_cdi_model(small_scan, None, conditioned)["model_instance"]
    save_bundle(tmp_path, Bundle(trained, conditioned))
    model = load_bundle(tmp_path).model
    container = groups_to_reconstruct(model, gaussian_scan, conditioned)
    other = model_for_groups(model, container)
    assert len(container) == len(gaussian_scan)
    assert other.network is model.network
    torch.testing.assert_close(other.probe, physical_probe(container))
    learned = [float(m.object_scale.detach()) / m.normalisation.object_scale for m in (model, other)]
    assert learned[1] == pytest.approx(learned[0], rel=1e-5)
    assert learned[0] != pytest.approx(1.0, abs=1e-6)
    image = reassemble_cdi_image(gaussian_scan, conditioned, model=model, keep_patches=False)[2]["stitched"].image
    by_hand = reassemble_cdi_image(container, conditioned, model=other, keep_patches=False)[2]["stitched"].image
    np.testing.assert_array_equal(image, by_hand)


def test_without_conditioning_the_model_stays_as_it_is(small_scan: Any, gaussian_scan: Any, tiny_config: Any) -> None:
    model = train_cdi_model(small_scan, None, tiny_config)["model_instance"]
    container = groups_to_reconstruct(model, gaussian_scan, tiny_config)
    assert container.normalisation == model.normalisation
    assert model_for_groups(model, container) is model


def test_the_training_scan_keeps_its_improved_probe(small_scan: Any, conditioned: Any) -> None:
    config = replace(conditioned, probe_trainable=True)
    model = train_cdi_model(small_scan, None, config)["model_instance"]
    assert not torch.equal(model.probe, physical_probe(create_ptycho_data_container(small_scan, config)))
    assert model_for_groups(model, groups_to_reconstruct(model, small_scan, config)) is model


def test_the_test_scan_of_a_training_is_predicted_with_its_own_probe(
    small_scan: Any, gaussian_scan: Any, conditioned: Any
) -> None:
    amplitude, _, results = run_cdi_example(small_scan, gaussian_scan, conditioned, do_stitching=True)
    model = model_for_scan(results["model_instance"], gaussian_scan, conditioned)
    assert results["test_container"].normalisation == model.normalisation
    again = reassemble_cdi_image(gaussian_scan, conditioned, model=results["model_instance"])
    np.testing.assert_array_equal(amplitude, again[0])
    np.testing.assert_array_equal(results["reconstructed_obj"], again[2]["obj_tensor_full"])


@pytest.mark.slow
def test_the_commands_and_a_bundle_keep_the_setting(small_scan: Any, gaussian_scan: Any, tmp_path: Any) -> None:
    small_scan.to_file(tmp_path / "a.npz")
    gaussian_scan.to_file(tmp_path / "b.npz")
    train = ["train", str(tmp_path / "a.npz"), "--nepochs", "1", "--architecture", "ffno", "--fno-width", "8"]
    train += ["--batch-size", "8", "--probe-conditioning", "channels", "--output-dir", str(tmp_path / "model")]
    assert main(train) == 0
    model = load_bundle(tmp_path / "model").model
    assert model.config.probe_conditioning == "channels"
    out = str(tmp_path / "image")
    assert (
        main(["reconstruct", str(tmp_path / "b.npz"), "--model-path", str(tmp_path / "model"), "--output-dir", out])
        == 0
    )
    result = json.loads((tmp_path / "image" / "result.json").read_text(encoding="utf-8"))
    assert result["patterns"] == len(gaussian_scan)
