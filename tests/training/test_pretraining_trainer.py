"""Pretraining on the one training loop: interrupted and resumed within an epoch, and stopped early like any training."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import TrainingInterrupted
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT, FolderCheckpoints, read_checkpoint
from ptycho_ray.training.loop import Trainer
from ptycho_ray.training.pretraining import PretrainingConfig, SimulationSource, pretrain


@pytest.fixture
def few(tmp_path: Path) -> PretrainingConfig:
    return PretrainingConfig(
        N=32, fno_width=4, retrieval_steps=3, nepochs=2, patterns_per_epoch=16, batch_size=4, scene_patterns=2,
        validation_scans=2, output_dir=tmp_path / "run",
    )  # fmt: skip


class SignalAfter:
    """Sends this process SIGTERM after a step, as a scheduler of a cluster does."""

    def __init__(self, step: int) -> None:
        self.left = step

    def on_step(self, *told: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(self, *told: Any) -> None:
        pass


def test_a_pretraining_that_is_stopped_within_an_epoch_resumes_bit_identically(few: PretrainingConfig) -> None:
    whole = pretrain(few)
    cut = replace(few, output_dir=few.output_dir.with_name("cut"))
    execution = ExecutionConfig(learning_rate=cut.learning_rate)
    with pytest.raises(TrainingInterrupted):
        Trainer(
            SimulationSource(cut, execution),
            cut.training(),
            execution,
            checkpoints=FolderCheckpoints(cut.output_dir, 0),
            callbacks=[SignalAfter(2)],
        ).fit()
    progress = read_checkpoint(cut.output_dir / LAST_CHECKPOINT)[1]["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 2)
    resumed = pretrain(cut, resume=True)
    assert resumed.history == whole.history
    for ours, theirs in zip(resumed.model.network.parameters(), whole.model.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_pretraining_that_no_longer_improves_stops(few: PretrainingConfig) -> None:
    long = replace(few, nepochs=30, learning_rate=1e-30)
    history = pretrain(long, ExecutionConfig(early_stop_patience=2)).history
    assert len(history["loss"]) < 30


@pytest.mark.slow
def test_gradients_of_several_batches_are_added_up(few: PretrainingConfig) -> None:
    """Half the batch and twice the accumulation is the same training, but for the order of sums."""
    whole = pretrain(few)
    halves = replace(few, batch_size=2, output_dir=few.output_dir.with_name("halves"))

    class SameScans(SimulationSource):
        def batches(self, epoch: int) -> list[Any]:
            batches = SimulationSource(few, ExecutionConfig()).batches(epoch)
            return [half for batch in batches for half in (batch[:1], batch[1:])]

    execution = ExecutionConfig(learning_rate=few.learning_rate, accum_steps=2)
    source = SameScans(halves, execution)
    history = Trainer(source, halves.training(), execution).fit()
    assert history["loss"] == pytest.approx(whole.history["loss"], rel=1e-4)
