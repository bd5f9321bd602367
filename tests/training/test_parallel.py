"""Processes that train together: the same steps, losses and validation figures as one process, without Ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import history_of_training, in_processes

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.training.scan_training import GroupList
from ptycho_ray.workflow import create_ptycho_data_container, train_cdi_model


@pytest.mark.parametrize("rows", [np.arange(7), np.arange(1), np.array([], dtype=int)])
def test_shares_are_the_batch(rows):
    shares = [DataParallel(rank, 3).share(rows) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == sorted(rows)


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_make_the_same_steps_as_one(small_scan, tiny_config, tmp_path, processes):
    """Plain gradient descent, so that a difference in the last bit stays one: Adam divides small gradients by their size.

    Batches of 8, the last of 2 or 3: with four processes some have no share of it.
    """
    config = replace(tiny_config, optimizer="sgd", momentum=0.5, nepochs=3, probe_trainable=True, probe_start_epoch=1)
    execution = ExecutionConfig(learning_rate=1e-3, accum_steps=2)
    alone = train_cdi_model(small_scan, None, config, execution=execution)["history"]
    together = in_processes(tmp_path, processes, history_of_training, [small_scan], config, execution)
    assert together.keys() == alone.keys()
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-5, err_msg=name)


def test_the_default_optimiser_stays_close(small_scan, tiny_config, tmp_path):
    alone = train_cdi_model(small_scan, None, tiny_config)["history"]
    together = in_processes(tmp_path, 2, history_of_training, [small_scan], tiny_config, ExecutionConfig())
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-5)
    np.testing.assert_allclose(together["val_loss"], alone["val_loss"], rtol=1e-3)


@pytest.mark.parametrize("sampling", ["proportional", "even"])
def test_several_scans_train_together_in_several_processes(small_scan, other_scan, tiny_config, tmp_path, sampling):
    """A probe whose scan has no group in a batch stays where it is, on all processes."""
    config = replace(
        tiny_config,
        optimizer="sgd",
        momentum=0.5,
        probe_trainable=True,
        scan_sampling=sampling,
        batch_size=2,
        nepochs=1,
    )
    execution = ExecutionConfig(learning_rate=1e-3)
    alone = train_cdi_model([small_scan, other_scan], None, config, execution=execution)["history"]
    together = in_processes(tmp_path, 2, history_of_training, [small_scan, other_scan], config, execution)
    assert together.keys() == alone.keys()
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-5, err_msg=name)


def test_an_epoch_visits_every_group_once_or_every_scan_equally_often(small_scan, other_scan, tiny_config):
    config = replace(tiny_config, n_groups=60)  # all that there are
    groups = GroupList([create_ptycho_data_container(scan, config) for scan in (small_scan, other_scan)])
    proportional = groups.order("proportional", np.random.default_rng(1))
    assert sorted(proportional) == list(range(100))
    even = groups.order("even", np.random.default_rng(1))
    first, second = even[even < 60], even[even >= 60]
    assert (len(first), len(second)) == (50, 50)
    assert len(np.unique(first)) == 50
    assert set(second) == set(range(60, 100))


def test_groups_of_several_scans_are_read_with_their_own_scales(small_scan, other_scan, tiny_config):
    config = replace(tiny_config, n_groups=60)
    containers = [create_ptycho_data_container(scan, config) for scan in (small_scan, other_scan)]
    pieces = GroupList(containers).read(np.array([70, 3, 61, 59]))
    assert [piece.scan for piece in pieces] == [0, 1]
    for piece, container, rows in zip(pieces, containers, ([3, 59], [10, 1]), strict=True):
        photons, relative = container.batch(rows)
        assert torch.equal(piece.photons, torch.from_numpy(photons))
        assert torch.equal(piece.relative, torch.from_numpy(relative))
