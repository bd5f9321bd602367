"""The unrolled solver: its physics, what it makes of whole scans, and that its weights serve any scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ray.bundle import load_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.config import ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.data.groups import create_ptycho_data_container
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.registry import build_network
from ptycho_ray.models.transfer import model_for_scan, physical_probe
from ptycho_ray.models.unrolled import STABILISER, Windows, stabilised
from ptycho_ray.physics.agreement import in_phase, object_error
from ptycho_ray.physics.diffraction import centred, measure
from ptycho_ray.reconstruction.inference import reconstruct
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.reconstruction.together import in_pairs
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.scan_patterns import make_scan
from ptycho_ray.simulation.simulate import simulate_patterns, simulate_scan
from ptycho_ray.workflow import reassemble_cdi_image, scans_to_train, train_cdi_model


def scan_of(N: int = 32, step: float = 4.0, photons: float = 1e6, seed: int = 3, modes: int = 1) -> RawData:
    """A scan between pixels, of a smooth object."""
    rng = np.random.default_rng(seed)
    sample = make_object("grf", (N + 40, N + 40), rng, amplitude_range=(0.6, 1.0), phase_range=(0.0, 1.2))
    probe = make_probe("zernike", N, rng, diameter_px=14.0, modes=modes, photons=photons)
    return simulate_scan(sample, probe, make_scan("jitter", sample.shape, N, rng, step_px=step), rng=rng)


def error(image: StitchedObject, scan: RawData) -> float:
    """Mean absolute error where the scan is well lit, in units of the transmission."""
    truth = scan.object_truth
    assert truth is not None
    top, left = (round(edge) for edge in image.origin_px)
    height, width = image.image.shape
    there = torch.from_numpy(truth[top : top + height, left : left + width])
    made = torch.from_numpy(image.image[: there.shape[0], : there.shape[1]])
    weight = torch.from_numpy(image.covered(0.5)[: there.shape[0], : there.shape[1]]).float()
    return float(object_error(in_phase(made, there, weight), there, weight))


def settings(N: int = 32, **model: Any) -> TrainingConfig:
    network = ModelConfig(N=N, architecture="unrolled", **({"gridsize": 2, "fno_width": 4} | model))
    return TrainingConfig(model=network, nepochs=1, n_groups=16, batch_size=8, validation_fraction=0.0)


def untrained(scan: RawData, config: TrainingConfig) -> PhysicsInformedModel:
    container = create_ptycho_data_container(scan, config)
    torch.manual_seed(0)
    return PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))


def image_of(model: PhysicsInformedModel, scan: RawData, batch_size: int = 16, **options: Any) -> StitchedObject:
    config = replace(settings(), n_groups=len(scan), model=replace(settings().model, N=scan.N, gridsize=1))
    return reconstruct(model, create_ptycho_data_container(scan, config), batch_size, **options)


@pytest.fixture(scope="module")
def scan() -> RawData:
    return scan_of()


def test_windows_diffract_as_a_simulation_does_between_pixels() -> None:
    rng = np.random.default_rng(0)
    sample = make_object("grf", (60, 60), rng)
    probe = make_probe("zernike", 32, rng, diameter_px=14.0, modes=2, photons=1e5)
    positions = rng.uniform(17, 42, (5, 2))
    corners = torch.from_numpy(positions - 16).float()
    windows = Windows(torch.from_numpy(probe), corners, torch.zeros(5, dtype=torch.int64), (1, 60, 60))
    found = centred(measure(windows.waves(torch.from_numpy(sample)[None])))
    expected = simulate_patterns(sample, probe, positions, noise=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_the_descent_is_the_derivative_of_the_misfit() -> None:
    rng = np.random.default_rng(1)
    probe = torch.from_numpy(make_probe("zernike", 32, rng, diameter_px=14.0, modes=2, photons=1e5))
    shape = (2, 40, 40)
    windows = Windows(probe, torch.tensor([[1.3, 2.0], [4.0, 5.6], [0.2, 7.0]]), torch.tensor([0, 0, 1]), shape)
    photons = torch.poisson(100 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    good = (torch.rand(32, 32, generator=torch.Generator().manual_seed(1)) > 0.1).float()
    image = torch.ones(shape, dtype=torch.complex64, requires_grad=True)
    predicted = (measure(windows.waves(image)) + STABILISER).sqrt()
    (0.5 * good * (predicted - stabilised(photons)).square()).sum().backward()
    assert image.grad is not None
    down = windows.descent(image.detach(), stabilised(photons), good)
    torch.testing.assert_close(down, -image.grad, rtol=1e-3, atol=1e-3 * float(down.abs().max()))


def test_untrained_it_solves_a_scan_and_needs_no_more_than_its_iterations(scan: RawData) -> None:
    errors = []
    for iterations in (1, 4, 12):
        config = settings(unrolled_iterations=iterations)
        errors.append(error(image_of(untrained(scan, config), scan), scan))
    assert errors[0] > 2 * errors[1] > 3 * errors[2]
    assert errors[2] < 0.015


def test_how_patterns_are_read_does_not_matter(scan: RawData, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(scan, settings())
    told: list[tuple[int, int]] = []
    image = image_of(model, scan, on_batch=lambda done, of: told.append((done, of)))
    assert told[-1] == (len(scan), len(scan))
    monkeypatch.setattr("ptycho_ray.reconstruction.together.AMPLITUDE_BYTES", 0)
    again = image_of(model, scan, batch_size=5)
    np.testing.assert_allclose(again.image, image.image, atol=1e-3)


def test_positions_may_be_mirrored_and_axes_swapped(scan: RawData) -> None:
    """A scan of the transposed object with transposed patterns is the same scan."""
    model = untrained(scan, settings())
    image = image_of(model, scan)
    swapped = simulate_like(scan, scan.positions_px[:, ::-1])
    turned = image_of(model, swapped, transpose=True)
    np.testing.assert_allclose(turned.image.T, image.image, atol=1e-3)
    assert turned.origin_px == image.origin_px[::-1]
    mirrored = simulate_like(scan, scan.positions_px * [-1, 1])
    np.testing.assert_allclose(
        image_of(model, mirrored, direction_yx=np.array([-1.0, 1.0])).image, image.image, atol=1e-3
    )


def simulate_like(scan: RawData, positions: np.ndarray) -> RawData:
    """The patterns of a scan at other positions."""
    amplitude = scan.patterns.amplitude(np.arange(len(scan)))
    return RawData(positions[:, 1], positions[:, 0], None, None, amplitude, scan.probe)


def test_a_bad_pixel_says_nothing(scan: RawData) -> None:
    model = untrained(scan, settings())
    bad = np.zeros((32, 32), dtype=bool)
    bad[14:18, 18:22] = True
    masked = scan.select(range(len(scan)))
    masked.patterns = masked.patterns.with_bad_pixels(bad)
    whole = error(image_of(model, scan), scan)
    assert error(image_of(model, masked), scan) < 1.5 * whole
    (training,) = scans_to_train(masked, settings())
    photons, relative = (torch.from_numpy(array) for array in training.training.batch(np.arange(2)))
    with torch.no_grad():
        explained = [float(misfit(training.model, photons, relative, bad))]
        training.model.good_pixels = None  # the zeros that bad pixels are read as would be believed
        explained.append(float(misfit(training.model, photons, relative, bad)))
    assert explained[0] < 0.5 * explained[1]


def misfit(model: PhysicsInformedModel, photons: torch.Tensor, relative: torch.Tensor, bad: np.ndarray) -> torch.Tensor:
    """Of the amplitudes of groups, where detector pixels are good."""
    predicted = model(photons, relative, float(relative.abs().max())).intensity
    return (predicted.sqrt() - photons.sqrt())[..., torch.from_numpy(~bad)].square().mean()


def test_every_second_position_is_spread_over_the_scan(rng: np.random.Generator) -> None:
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(7.0), indexing="ij"), axis=-1).reshape(-1, 2)
    order = in_pairs(rng.permutation(grid))
    assert sorted(order) == list(range(len(grid)))
    shuffled = rng.permutation(grid)
    pairs = shuffled[in_pairs(shuffled)].reshape(-1, 2, 2)
    assert np.abs(pairs[:, 0] - pairs[:, 1]).sum(axis=1).max() <= 2


def test_the_probe_is_seen_in_any_case() -> None:
    with pytest.raises(ConfigurationError, match="probe_conditioning: 'unrolled' sees the probe"):
        build_network(ModelConfig(N=32, architecture="unrolled", probe_conditioning="channels"))


@pytest.mark.slow
def test_training_on_a_scan_without_labels_improves_its_image_and_that_of_another(scan: RawData) -> None:
    config = replace(settings(fno_width=8), nepochs=3, n_groups=60)
    other = scan_of(seed=8)
    before = untrained(scan, config)
    after = train_cdi_model(scan, None, config)["model_instance"]
    for there, at_most in ((scan, 0.95), (other, 1.0)):
        errors = [error(image_of(model_for_scan(model, there, config), there), there) for model in (before, after)]
        assert errors[1] < at_most * errors[0]


def test_weights_serve_another_side_and_another_probe(scan: RawData) -> None:
    config = settings()
    trained = train_cdi_model(scan, None, config)["model_instance"]
    other = scan_of(N=40, seed=5, modes=2)
    image = reassemble_cdi_image(other, config, model=trained, keep_patches=False)[2]["stitched"]
    assert error(image, other) < 0.05
    assert image.image.shape[0] >= 40


@pytest.mark.slow
def test_the_commands_train_it_and_apply_it_to_another_scan(scan: RawData, tmp_path: Any, capsys: Any) -> None:
    scan.to_file(tmp_path / "a.npz")
    scan_of(N=40, seed=5).to_file(tmp_path / "b.npz")
    train = ["train", str(tmp_path / "a.npz"), "--architecture", "unrolled", "--nepochs", "1"]
    assert main([*train, "--output-dir", str(tmp_path / "model")]) == 0
    config = load_bundle(tmp_path / "model").config.model
    assert (config.gridsize, config.fno_width) == (2, 8)
    out = tmp_path / "image"
    read = ["reconstruct", str(tmp_path / "b.npz"), "--model-path", str(tmp_path / "model"), "--output-dir", str(out)]
    assert main(read) == 0
    with np.load(out / "reconstruction.npz") as file:
        assert file["object"].shape[0] >= 40
