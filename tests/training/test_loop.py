"""The training loop: determinism, resume, schedules, clipping, accumulation, stopping, splitting."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import make_tiny_config

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError, InputError, TrainingInterrupted
from ptycho_ray.tracking import build_trackers
from ptycho_ray.training.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT, read_checkpoint
from ptycho_ray.training.device import network_dtype, resolve_device
from ptycho_ray.training.loop import TrainingDiverged
from ptycho_ray.training.optimisation import Schedule, clip_gradients
from ptycho_ray.training.split import split_groups
from ptycho_ray.workflow import create_ptycho_data_container, train_cdi_model


def weights(results: dict) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in results["model_instance"].state_dict().items()}


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


class StopAfter:
    """Presses Ctrl-C after so many steps of the optimiser."""

    def __init__(self, steps: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = steps, number

    def on_step(self, progress, figures, steps_in_epoch) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    def on_epoch(self, progress, figures, model) -> None:
        pass


class Recorder:
    def __init__(self) -> None:
        self.steps, self.epochs, self.models = [], [], []

    def on_step(self, progress, figures, steps_in_epoch) -> None:
        self.steps.append(figures)

    def on_epoch(self, progress, figures, model) -> None:
        self.epochs.append(figures)


@pytest.fixture(scope="module")
def trained(small_scan, tmp_path_factory):
    """``trained(config)`` is what a training gives that nothing disturbs; each is done once. Its model is not to be changed."""

    @cache
    def train(config) -> dict:
        return train_cdi_model(small_scan, None, config, checkpoint_dir=tmp_path_factory.mktemp("whole"))

    return train


def test_the_same_seed_gives_the_same_bits(small_scan, tiny_config, trained):
    again = train_cdi_model(small_scan, None, tiny_config)
    assert_same_weights(weights(trained(tiny_config)), weights(again))
    assert trained(tiny_config)["history"] == again["history"]


def test_another_seed_gives_another_model(tiny_config, trained):
    first, second = weights(trained(tiny_config)), weights(trained(replace(tiny_config, seed=1)))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_training_leaves_the_global_random_streams_alone(small_scan, tiny_config):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    train_cdi_model(small_scan, None, tiny_config)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


@pytest.mark.parametrize("scheduler", ["WarmupCosine", "ReduceLROnPlateau"])
@pytest.mark.parametrize("steps", [3, 6, 9])
def test_a_cut_run_goes_on_as_if_it_had_not_been_cut(small_scan, tiny_config, trained, tmp_path, scheduler, steps):
    """Cut in the middle of an epoch and at its end; the continued run ends with the same bits."""
    config = replace(tiny_config, nepochs=3, scheduler=scheduler, plateau_patience=0)
    whole = trained(config)
    cut = tmp_path / "cut"
    with pytest.raises(TrainingInterrupted):
        train_cdi_model(small_scan, None, config, checkpoint_dir=cut, callbacks=[StopAfter(steps)])
    continued = train_cdi_model(small_scan, None, config, checkpoint_dir=cut, resume_from=cut / LAST_CHECKPOINT)
    assert_same_weights(weights(whole), weights(continued))
    assert whole["history"] == continued["history"]


@pytest.mark.slow
def test_a_finished_run_can_be_prolonged(small_scan, tiny_config, tmp_path):
    config = replace(tiny_config, validation_fraction=0.0)
    whole = train_cdi_model(small_scan, None, replace(config, nepochs=3))
    train_cdi_model(small_scan, None, config, checkpoint_dir=tmp_path)
    prolonged = train_cdi_model(
        small_scan, None, replace(config, nepochs=3), checkpoint_dir=tmp_path, resume_from=tmp_path / LAST_CHECKPOINT
    )
    assert_same_weights(weights(whole), weights(prolonged))


def test_sigterm_saves_too_and_handlers_are_put_back(small_scan, tiny_config, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted) as stopped:
        train_cdi_model(
            small_scan, None, tiny_config, checkpoint_dir=tmp_path, callbacks=[StopAfter(1, signal.SIGTERM)]
        )
    assert stopped.value.checkpoint == tmp_path / LAST_CHECKPOINT
    _, header = read_checkpoint(tmp_path / LAST_CHECKPOINT)
    assert header["progress"]["batch"] == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.fixture(scope="module")
def checkpoint(small_scan, tmp_path_factory):
    """The last checkpoint of two epochs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    train_cdi_model(small_scan, None, make_tiny_config(), checkpoint_dir=folder)
    return folder / LAST_CHECKPOINT


def test_resuming_with_other_settings_is_refused(small_scan, tiny_config, checkpoint):
    with pytest.raises(InputError, match="batch_size.*found 4.*expected 8"):
        train_cdi_model(small_scan, None, replace(tiny_config, batch_size=4), resume_from=checkpoint)


@pytest.mark.parametrize("damage", ["truncated", "no checkpoint", "other tensors"])
def test_a_damaged_checkpoint_is_refused(small_scan, tiny_config, checkpoint, tmp_path, damage):
    path = tmp_path / LAST_CHECKPOINT
    path.write_bytes(checkpoint.read_bytes())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no checkpoint":
        path.write_bytes(b"nothing of the kind")
    config = tiny_config
    if damage == "other tensors":
        config = replace(config, model=replace(config.model, n_filters_scale=2))
    with pytest.raises(InputError, match=LAST_CHECKPOINT):
        train_cdi_model(small_scan, None, config, resume_from=path)


def test_best_and_last_checkpoints(small_scan, tiny_config, tmp_path):
    """The model that comes back is the one of the best validation figure."""
    config = replace(tiny_config, nepochs=4)
    execution = ExecutionConfig(learning_rate=0.01)
    results = train_cdi_model(small_scan, None, config, execution=execution, checkpoint_dir=tmp_path)
    _, last = read_checkpoint(tmp_path / LAST_CHECKPOINT)
    tensors, best = read_checkpoint(tmp_path / BEST_CHECKPOINT)
    values = results["history"]["val_loss"]
    assert last["progress"]["epoch"] == 4
    assert best["progress"]["epoch"] == int(np.argmin(values)) + 1
    for name, value in weights(results).items():
        assert torch.equal(value, tensors[f"model/{name}"])


def test_early_stopping_watches_the_validation(small_scan, tiny_config):
    config = replace(tiny_config, nepochs=30)
    execution = ExecutionConfig(learning_rate=1e-12, early_stop_patience=2, checkpoint_mode="max")
    history = train_cdi_model(small_scan, None, config, execution=execution)["history"]
    assert len(history["loss"]) < 30


def test_an_unknown_monitor_is_named(small_scan, tiny_config):
    with pytest.raises(ConfigurationError, match="checkpoint_monitor_metric.*val_ssim.*val_loss"):
        train_cdi_model(small_scan, None, tiny_config, execution=ExecutionConfig(checkpoint_monitor_metric="val_ssim"))


def test_accumulating_two_batches_equals_one_of_twice_the_size(small_scan, tiny_config):
    config = replace(tiny_config, nepochs=1, validation_fraction=0.0, optimizer="sgd", momentum=0.0)
    once = train_cdi_model(small_scan, None, replace(config, batch_size=16))
    twice = train_cdi_model(small_scan, None, config, execution=ExecutionConfig(accum_steps=2))
    for name, value in weights(once).items():
        assert torch.allclose(value, weights(twice)[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scheduler": "Default"}, [1.0, 1.0, 1.0, 1.0]),
        ({"scheduler": "Exponential"}, [1.0, 0.95, 0.9025, 0.857375]),
        ({"scheduler": "WarmupCosine", "lr_warmup_epochs": 1, "lr_min_ratio": 0.1}, [0.1, 1.0, 0.775, 0.325]),
    ],
)
def test_schedules_step(tiny_config, settings, expected):
    schedule = Schedule(replace(tiny_config, nepochs=4, **settings), ExecutionConfig())
    assert [schedule.factor(float(epoch)) for epoch in range(4)] == pytest.approx(expected)


def test_plateau_schedule_lowers_the_rate_after_its_patience(tiny_config):
    config = replace(tiny_config, scheduler="ReduceLROnPlateau", plateau_patience=1, plateau_min_lr=3e-4)
    schedule = Schedule(config, ExecutionConfig(learning_rate=1e-3))
    factors = []
    for figure in [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95]:
        schedule.end_of_epoch(figure)
        factors.append(schedule.factor(0.0))
    assert factors == pytest.approx([1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("algorithm", ["norm", "value", "agc"])
def test_gradient_clipping(algorithm):
    layer = torch.nn.Linear(4, 3, bias=False)
    torch.nn.init.constant_(layer.weight, 0.5)
    layer.weight.grad = torch.full((3, 4), 2.0)
    clip_gradients(layer.parameters(), 0.1, algorithm)
    gradient = layer.weight.grad
    largest = {
        "norm": float(gradient.norm()),
        "value": float(gradient.abs().max()),
        "agc": float((gradient.norm(dim=1) / layer.weight.detach().norm(dim=1)).max()),
    }[algorithm]
    assert largest == pytest.approx(0.1, rel=1e-3)


@pytest.mark.slow
def test_mixed_precision_stays_near_full_precision(small_scan, tiny_config, trained, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    full = trained(tiny_config)
    mixed = train_cdi_model(small_scan, None, tiny_config, execution=ExecutionConfig(precision="bf16-mixed"))
    assert weights(mixed)["network.encoder.0.first.weight"].dtype == torch.float32
    assert mixed["history"]["loss"] != full["history"]["loss"]
    assert mixed["history"]["loss"] == pytest.approx(full["history"]["loss"], rel=0.15)


def test_training_lowers_the_loss(small_scan, tiny_config):
    history = train_cdi_model(small_scan, None, replace(tiny_config, nepochs=8))["history"]
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]


@pytest.mark.parametrize("probe_trainable", [True, False])
@pytest.mark.parametrize("scale_trainable", [True, False])
def test_probe_and_scale_are_real_parameters(small_scan, tiny_config, probe_trainable, scale_trainable):
    config = replace(tiny_config, probe_trainable=probe_trainable, intensity_scale_trainable=scale_trainable)
    results = train_cdi_model(small_scan, None, config)
    model, container = results["model_instance"], results["train_container"]
    moved = not torch.equal(model.probe.detach(), torch.from_numpy(container.raw.probe))
    assert moved == probe_trainable
    rescaled = float(model.object_scale.detach()) != pytest.approx(container.normalisation.object_scale, rel=1e-6)
    assert rescaled == scale_trainable


def test_the_probe_waits_for_its_epoch(small_scan, tiny_config):
    config = replace(tiny_config, probe_trainable=True, probe_start_epoch=2)
    results = train_cdi_model(small_scan, None, config)
    assert torch.equal(results["model_instance"].probe.detach(), torch.from_numpy(small_scan.probe))


def test_terms_of_the_loss_add_up(small_scan, tiny_config):
    config = replace(tiny_config, nepochs=1, mae_weight=0.5, nll_weight=0.25, tv_weight=0.2, realspace_weight=0.5)
    history = train_cdi_model(small_scan, None, config)["history"]
    total = 0.5 * history["mae"][0] + 0.25 * history["nll"][0] + 0.1 * history["tv"][0]
    assert history["loss"][0] == pytest.approx(total, rel=1e-5)
    assert history["pred_intensity_loss"] == history["nll"]
    assert history["intensity_scaler_inv_loss"] == history["mae"]
    assert history["train_loss"] == history["loss"]


def test_divergence_is_reported(small_scan, tiny_config):
    config = replace(tiny_config, nepochs=20, optimizer="sgd")
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        train_cdi_model(small_scan, None, config, execution=ExecutionConfig(learning_rate=1e12))


def test_callbacks_hear_every_step_and_epoch(small_scan, tiny_config):
    recorder = Recorder()
    results = train_cdi_model(small_scan, None, tiny_config, callbacks=[recorder])
    assert [figures["loss"] for figures in recorder.epochs] == results["history"]["loss"]
    training = len(results["train_container"]) - len(results["validation_container"])
    assert len(recorder.steps) == 2 * -(-training // 8)
    assert {"loss", "r_factor", "learning_rate"} <= recorder.steps[0].keys()


@pytest.mark.parametrize("gridsize", [1, 2])
def test_the_split_shares_no_pattern(small_scan, tiny_config, gridsize):
    config = replace(tiny_config, model=replace(tiny_config.model, gridsize=gridsize), neighbor_count=5)
    container = create_ptycho_data_container(small_scan, config)
    training, validation = split_groups(container, 0.2, np.random.default_rng(0))
    assert not set(training.nn_indices.ravel()) & set(validation.nn_indices.ravel())
    assert len(validation) >= 3
    assert training.normalisation == container.normalisation


def test_the_split_is_compact(small_scan, tiny_config):
    """Held-out patterns lie beside each other: most of them have a held-out nearest neighbour."""
    container = create_ptycho_data_container(small_scan, tiny_config)
    _, validation = split_groups(container, 0.25, np.random.default_rng(0))
    held_out = validation.nn_indices.ravel()
    positions = small_scan.positions_px
    distance = np.linalg.norm(positions[held_out, None] - positions[None], axis=-1)
    distance[np.arange(len(held_out)), held_out] = np.inf
    assert np.isin(distance.argmin(axis=1), held_out).mean() > 0.5


def test_no_split_when_there_is_nothing_to_hold_out(small_scan, tiny_config):
    container = create_ptycho_data_container(small_scan, tiny_config)
    training, validation = split_groups(container, 0.001, np.random.default_rng(0))
    assert training is container
    assert validation is None


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"^device: .*cuda.*cpu\..*--device"):
        resolve_device(ExecutionConfig(accelerator="cuda"))
    assert resolve_device(ExecutionConfig(accelerator="cpu")) == torch.device("cpu")


def test_float16_on_a_processor_is_refused():
    with pytest.raises(ConfigurationError, match="precision.*bf16-mixed"):
        network_dtype(ExecutionConfig(precision="16-mixed"), torch.device("cpu"))
    assert network_dtype(SimpleNamespace(precision="32-true"), torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("feature", "expected"), [("avx512_bf16", torch.bfloat16), ("bf16", torch.bfloat16), ("avx2", None)]
)
def test_bfloat16_is_not_emulated(feature, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "num_sockets": 1, feature: True})
    mixed = ExecutionConfig(precision="bf16-mixed")
    assert network_dtype(mixed, torch.device("cpu")) == expected
    assert network_dtype(mixed, torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_changes_nothing(small_scan, tiny_config, trained, workers):
    plain = trained(tiny_config)
    ahead = train_cdi_model(small_scan, None, tiny_config, execution=ExecutionConfig(num_workers=workers))
    assert_same_weights(weights(plain), weights(ahead))


def test_the_table_of_figures_is_complete_after_each_epoch(small_scan, tiny_config, tmp_path):
    tracker = build_trackers(ExecutionConfig(), tmp_path)
    history = train_cdi_model(small_scan, None, tiny_config, callbacks=tracker)["history"]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,loss,")
    assert [float(line.split(",")[1]) for line in lines[1:]] == history["loss"]


def test_a_tracker_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"logger_backend.*tensorboard.*csv"):
        build_trackers(ExecutionConfig(logger_backend="tensorboard"), tmp_path)
    assert build_trackers(ExecutionConfig(logger_backend="none"), tmp_path) == []


@pytest.mark.parametrize("setting", [{"devices": 2}, {"checkpoint_save_top_k": 2}])
def test_a_setting_without_effect_is_refused(small_scan, tiny_config, tmp_path, setting):
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        train_cdi_model(small_scan, None, tiny_config, execution=ExecutionConfig(**setting), checkpoint_dir=tmp_path)
