"""Pretraining on streamed simulations, the model that comes with the program, and training that starts from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ray.bundle import PRETRAINED_FILE, Bundle, load_bundle, save_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.config import PRETRAINED, ModelConfig, TrainingConfig
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.simulation.variety import random_probe, random_scan
from ptycho_ray.training.initial import initial_network
from ptycho_ray.training.pretraining import PretrainingConfig, Scene, pretrain, scans_of
from ptycho_ray.workflow import train_cdi_model


@pytest.fixture
def few(tmp_path: Path) -> PretrainingConfig:
    return PretrainingConfig(
        N=32,
        fno_width=4,
        retrieval_steps=5,
        nepochs=2,
        patterns_per_epoch=16,
        batch_size=8,
        scene_patterns=4,
        validation_scans=3,
        output_dir=tmp_path / "run",
    )


def test_scans_of_every_kind_with_their_truth() -> None:
    scans = [random_scan(np.random.default_rng(seed), 32, 3, (3e3, 1e8)) for seed in range(30)]
    photons = [float(np.sum(np.abs(scan.probe) ** 2)) for scan in scans]
    assert min(photons) < 1e5
    assert max(photons) > 1e7
    assert {len(scan.probe) for scan in scans} == {1, 2}
    spans = [np.ptp(np.angle(scan.object_truth)) for scan in scans]
    assert min(spans) == 0
    assert max(spans) > 1
    for scan in scans:
        assert scan.pattern_energies().min() > 0
        assert np.array_equal(scan.positions_px, np.round(scan.positions_px))


def test_probes_fill_a_part_of_the_window() -> None:
    widths = [probe_diameter_px(random_probe(np.random.default_rng(seed), 64)[None]) for seed in range(40)]
    assert 4 < min(widths) < 20
    assert 30 < max(widths) < 60


def test_the_same_seed_gives_the_same_scans_and_other_streams_others(few: PretrainingConfig) -> None:
    first, again, other = (next(scans_of(few, stream, number=1)) for stream in (0, 0, 1))
    assert np.array_equal(first.patterns.intensity([0]), again.patterns.intensity([0]))
    assert first.object_truth is not None
    assert other.object_truth is not None
    assert not np.array_equal(np.abs(first.object_truth[:40, :40]), np.abs(other.object_truth[:40, :40]))
    assert {scan.N for scan in scans_of(few, 0, number=30)} > {32, 48, 64}


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(few: PretrainingConfig, tmp_path: Path) -> None:
    whole = pretrain(few)
    assert len(whole.history["loss"]) == 2
    assert {"val_loss", "val_retrieved_loss"} <= whole.history.keys()
    elsewhere = replace(few, output_dir=tmp_path / "cut")

    class Cut(Exception):
        pass

    def stop(epoch: int, figures: dict[str, float]) -> None:
        raise Cut

    with pytest.raises(Cut):
        pretrain(elsewhere, on_epoch=stop)
    continued = pretrain(elsewhere, resume=True)
    for ours, theirs in zip(whole.model.network.parameters(), continued.model.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match="fno_width.*continued with the settings.*found 6; expected 4"):
        pretrain(replace(elsewhere, fno_width=6), resume=True)


@pytest.mark.slow
def test_a_pretraining_goes_on_from_another_network(few: PretrainingConfig, tmp_path: Path) -> None:
    first = pretrain(few)
    save_bundle(tmp_path / "first", Bundle(first.model, first.config, {}, first.history))
    before = first.history["val_loss"][-1]
    further = replace(few, output_dir=tmp_path / "further", initial_model=tmp_path / "first", learning_rate=1e-9)
    assert pretrain(further).history["val_loss"] == pytest.approx([before, before], rel=1e-3)
    assert pretrain(replace(further, initial_model=None)).history["val_loss"][-1] != pytest.approx(before, rel=1e-3)
    with pytest.raises(ConfigurationError, match=r"model\.fno_width.*found 6; expected 4"):
        pretrain(replace(further, fno_width=6))


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match="batch_size.*multiple of scene_patterns = 2"):
        PretrainingConfig(batch_size=15)
    with pytest.raises(ConfigurationError, match="photons"):
        PretrainingConfig(photons=(1e6, 1e5))


def test_the_model_that_comes_with_the_program() -> None:
    assert PRETRAINED_FILE.stat().st_size <= 8 * 10**6
    bundle = load_bundle(PRETRAINED)
    assert bundle.history["val_loss"][-1] < bundle.history["val_retrieved_loss"][-1]
    unseen = [random_scan(np.random.default_rng((9, seed)), 64, 4, (1e5, 1e7)) for seed in range(16)]
    scenes = [Scene.of(scan, bundle.config, bundle.model.network, torch.device("cpu")) for scan in unseen]
    with torch.no_grad():
        errors = [[float(s.network_error()), float(s.error(s.model.retrieved(s.photons)[0]))] for s in scenes]
    network, shown = np.mean(errors, axis=0)
    assert network < 0.98 * shown


def test_info_tells_of_the_model_that_comes_with_the_program(capsys: Any) -> None:
    assert main(["info", "pretrained", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["members"]) == ("trained model", 1)
    assert told["config"]["model"]["architecture"] == "unet"
    assert "ptycho-ray pretrain" in told["provenance"]["command"]


def test_a_scan_is_reconstructed_without_training(small_scan: Any, tmp_path: Path, capsys: Any) -> None:
    small_scan.to_file(tmp_path / "scan.h5")
    words = [str(tmp_path / "scan.h5"), "--model-path", "pretrained", "--output-dir", str(tmp_path / "image")]
    assert main(["reconstruct", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patterns"] == len(small_scan)
    assert main(["evaluate", str(tmp_path / "image"), str(tmp_path / "scan.h5"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["truth"]["amplitude"]["ssim"] > 0.5


def test_a_training_starts_from_a_model(small_scan: Any, tmp_path: Path, capsys: Any) -> None:
    small_scan.to_file(tmp_path / "scan.npz")
    words = ["train", str(tmp_path / "scan.npz"), "--nepochs", "1", "--output-dir", str(tmp_path / "model"), "--json"]
    assert main([*words, "--init", PRETRAINED]) == 0
    capsys.readouterr()
    trained = load_bundle(tmp_path / "model")
    assert trained.config.model.architecture == "unet"
    assert trained.config.model.N == 32
    shipped = load_bundle(PRETRAINED).model.network
    steps = [
        float((new - old).detach().abs().max())
        for new, old in zip(trained.model.network.parameters(), shipped.parameters(), strict=True)
    ]
    assert 0 < max(steps) < 0.05
    assert main([*words, "--init", PRETRAINED, "--architecture", "cnn", "--overwrite"]) == 2
    assert "found cnn; expected unet" in json.loads(capsys.readouterr().out)["error"]


def test_only_the_same_network_is_taken_over(small_scan: Any, tiny_config: TrainingConfig, tmp_path: Path) -> None:
    results = train_cdi_model(small_scan, None, replace(tiny_config, nepochs=1))
    place = save_bundle(tmp_path, Bundle(results["model_instance"], tiny_config))
    network = initial_network(replace(tiny_config, initial_model=place))
    for ours, theirs in zip(network.parameters(), results["model_instance"].network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    wider = ModelConfig(N=32, n_filters_scale=2)
    with pytest.raises(ConfigurationError, match="model.n_filters_scale.*found 2; expected 1"):
        initial_network(replace(tiny_config, model=wider, initial_model=place))
