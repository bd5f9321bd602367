"""Training one network on several scans, each with its own probe and scales."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_ray.commands.cli import main
from ptycho_ray.errors import InputError
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT
from ptycho_ray.workflow import create_ptycho_data_container, load_inference_bundle, model_for_scan, train_cdi_model

SMALL = ["--nepochs", "1", "--n-filters-scale", "1", "--batch-size", "8", "--validation-fraction", "0.2"]


@pytest.fixture(scope="module")
def files(small_scan, other_scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    small_scan.to_file(folder / "a.npz")
    other_scan.to_file(folder / "b.npz")
    return folder


def test_scans_share_the_network_and_nothing_else(small_scan, other_scan, tiny_config):
    config = replace(tiny_config, probe_trainable=True)
    results = train_cdi_model([small_scan, other_scan], None, config)
    first, second = results["models"].values()
    assert first.network is second.network
    for model, scan in ((first, small_scan), (second, other_scan)):
        assert model.normalisation == create_ptycho_data_container(scan, config).normalisation
    assert not torch.equal(first.probe, second.probe)
    assert first.object_scale != second.object_scale


def test_validation_figures_of_each_scan_average_to_those_of_all(small_scan, other_scan, tiny_config):
    results = train_cdi_model([small_scan, other_scan], None, tiny_config)
    history, sizes = results["history"], [len(c) for c in results["validation_containers"].values()]
    each = np.array([history["val_loss/scan-1"], history["val_loss/scan-2"]])
    np.testing.assert_allclose(history["val_loss"], np.average(each, axis=0, weights=sizes), rtol=1e-12)


def test_one_scan_in_a_list_is_one_scan(small_scan, tiny_config):
    alone, listed = (train_cdi_model(data, None, tiny_config)["history"] for data in (small_scan, [small_scan]))
    assert alone == listed


@pytest.mark.slow
def test_a_cut_run_on_several_scans_goes_on(small_scan, other_scan, tiny_config, tmp_path):
    scans, config = [small_scan, other_scan], replace(tiny_config, probe_trainable=True, validation_fraction=0.0)
    whole = train_cdi_model(scans, None, replace(config, nepochs=3))
    train_cdi_model(scans, None, config, checkpoint_dir=tmp_path)
    last = tmp_path / LAST_CHECKPOINT
    longer = train_cdi_model(scans, None, replace(config, nepochs=3), resume_from=last)
    assert whole["history"] == longer["history"]
    with pytest.raises(InputError, match="data"):
        train_cdi_model(scans[::-1], None, replace(config, nepochs=3), resume_from=last)


def test_a_scan_that_was_not_trained_on_keeps_its_own_physics(small_scan, other_scan, tiny_config):
    model = train_cdi_model(small_scan, None, tiny_config)["model_instance"]
    other = model_for_scan(model, other_scan, tiny_config)
    assert other.network is model.network
    assert other.normalisation == create_ptycho_data_container(other_scan, tiny_config).normalisation


@pytest.mark.slow
def test_the_command_takes_files_or_a_folder(files, tmp_path):
    words = ["train", str(files / "a.npz"), str(files / "b.npz"), *SMALL, "--output-dir"]
    assert main([*words, str(tmp_path / "listed")]) == 0
    assert main(["train", str(files), *SMALL, "--output-dir", str(tmp_path / "folder")]) == 0
    tables = []
    for name in ("listed", "folder"):
        with (tmp_path / name / "metrics.csv").open(encoding="utf-8") as stream:
            tables.append(list(csv.DictReader(stream)))
        result = json.loads((tmp_path / name / "result.json").read_text(encoding="utf-8"))
        assert [row["scan"] for row in result["scans"]] == ["a", "b"]
        for scan in ("a", "b"):
            assert (tmp_path / name / scan / "reconstruction.npz").is_file()
            load_inference_bundle(tmp_path / name / scan)
    assert tables[0] == tables[1]
    assert {"val_loss", "val_loss/a", "val_loss/b"} <= tables[0][0].keys()


@pytest.mark.slow
def test_a_test_scan_gets_a_folder_of_its_own(files, tmp_path):
    (tmp_path / "c.npz").write_bytes((files / "b.npz").read_bytes())
    words = ["train", str(files), "--test-data-file", str(tmp_path / "c.npz"), *SMALL]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "test-c" / "reconstruction.npz").is_file()


def test_a_folder_without_scans_is_named(tmp_path, capsys):
    assert main(["train", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
