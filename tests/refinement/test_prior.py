"""The learned prior in the solver: it acts on details alone, is taken where the dose is low, and refused where it cannot
serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho_ray.commands.cli import main
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.denoiser import load_prior
from ptycho_ray.physics.agreement import disagreement
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.priors import Learned, denoised
from ptycho_ray.refinement.solver import Refinement, RefinementConfig, half_data_agreement, refine
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.scan_patterns import make_scan
from ptycho_ray.simulation.simulate import simulate_scan

WITH = RefinementConfig(iterations=16, probe_start=None, held_out_fraction=0.0, prior="pretrained")


def scan_of(kind: str, photons: float) -> RawData:
    """An object under an aberrated probe of 14 pixels."""
    rng = np.random.default_rng(4)
    image = make_object(kind, (88, 88), rng)
    probe = make_probe("zernike", 32, rng, diameter_px=14.0, photons=photons)
    return simulate_scan(image, probe, make_scan("jitter", image.shape, 32, rng, step_px=5.0), rng=rng)


def error(found: StitchedObject, scan: RawData) -> float:
    """Of the object in the light, after the best common phase."""
    assert scan.object_truth is not None
    row, column = (round(place) for place in found.origin_px)
    height, width = found.image.shape
    truth = scan.object_truth[max(row, 0) : row + height, max(column, 0) : column + width]
    image = found.image[max(-row, 0) :, max(-column, 0) :][: truth.shape[0], : truth.shape[1]]
    weight = found.covered()[max(-row, 0) :, max(-column, 0) :][: truth.shape[0], : truth.shape[1]]
    parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in (image, truth, weight.astype(np.float32))]
    return float(disagreement(*parts)) ** 0.5


def test_at_a_low_dose_it_is_taken_and_the_image_is_better() -> None:
    scan = scan_of("lines", 3e3)
    found = refine(scan, WITH)
    assert found.prior is not None
    assert found.prior.strength > 0
    assert error(found.stitched, scan) < 0.96 * error(found.prior.without, scan)
    moved = found.prior.moved(found.stitched)
    assert moved.shape == found.stitched.image.shape
    assert 0.1 < np.median(moved[found.stitched.covered()]) < 10
    assert "strength" in found.prior.sentence


def test_at_a_high_dose_nothing_is_lost() -> None:
    scan = scan_of("siemens", 1e8)  # a kind that the shipped prior has not seen
    found = refine(scan, WITH)
    assert found.prior is not None
    assert error(found.stitched, scan) < 1.02 * error(found.prior.without, scan)


def test_a_strength_that_is_given_is_not_asked() -> None:
    found = refine(scan_of("siemens", 1e8), replace(WITH, prior_strength=0.05, iterations=4))
    assert found.prior is not None
    assert found.prior.strength == 0.05
    assert list(found.prior.r_factors) == [0.0, 0.05]
    assert found.prior.settings(WITH).prior_strength == 0.05


def test_what_is_smooth_is_left_to_the_patterns() -> None:
    run = Refinement(scan_of("lines", 3e3), replace(WITH, prior_strength=1.0)).run
    rng = np.random.default_rng(0)
    shape = run.state.object.shape
    grain = 0.2 * torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape)).to(torch.complex64)
    run.state.object.copy_(1 + grain)
    prior, found = Learned(run, load_prior("pretrained")), torch.zeros_like(run.state.object)
    prior.begin(run)
    prior.add_derivative(found, run.state.object, (slice(None),) * 3, 1.0)
    assert found.mean().abs() < 1e-3 * found.abs().mean()
    towards = (found.conj() * grain.conj()).sum().real  # down this derivative the grain becomes less
    assert towards > 0.3 * found.norm() * grain.norm()


def test_a_canvas_in_strips_is_denoised_like_one_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(1 + 0.1 * rng.normal(size=(160, 40)) + 0j).to(torch.complex64)
    noise, lit = torch.full(image.shape, 0.1), torch.ones(image.shape, dtype=torch.bool)
    network = load_prior("pretrained")
    with torch.no_grad():
        whole = denoised(network, image, noise, lit)
        monkeypatch.setattr("ptycho_ray.refinement.priors.PIXELS", 64 * 40)
        assert torch.allclose(denoised(network, image, noise, lit), whole, atol=2e-3)


def test_halves_of_the_data_are_compared_without_it() -> None:
    scan = scan_of("lines", 3e3)
    config = replace(WITH, iterations=4, prior_strength=1.0)
    found = refine(scan, config)
    plain = half_data_agreement(scan, replace(config, prior="none"), found)
    assert np.array_equal(half_data_agreement(scan, config, found).correlation, plain.correlation)


def test_settings_that_do_not_go_together_are_refused() -> None:
    for other in ({"method": "dm"}, {"slices": 2, "slice_distance_px2": 1.0}):
        with pytest.raises(ConfigurationError, match="prior"):
            RefinementConfig(prior="pretrained", **other)


def test_the_command_writes_the_map_and_says_where_the_image_comes_from(tmp_path: Path) -> None:
    scan_of("lines", 3e3).to_file(tmp_path / "scan.npz")
    words = f"refine {tmp_path}/scan.npz --prior pretrained --prior-strength 0.3 --iterations 4 --output-dir {tmp_path}/image"
    assert main([*words.split(), "--uncertainty"]) == 0  # the error bars take the chosen solution up
    with np.load(tmp_path / "image/prior.npz") as made, np.load(tmp_path / "image/reconstruction.npz") as image:
        assert made["moved"].shape == made["without"].shape == image["object"].shape
        assert float(made["strength"]) == 0.3
    assert "comes from the prior" in (tmp_path / "image/report.html").read_text()
