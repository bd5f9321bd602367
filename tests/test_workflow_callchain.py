"""What docs/callchain.md promises beyond the order of calls: every import, and the calls in the reference's form."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_ray import workflow
from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import ModelConfig, TrainingConfig

DOCS = Path(workflow.__file__).resolve().parents[1] / "docs"
TEXT = (DOCS / "callchain.md").read_text(encoding="utf-8")
IMPORTS = re.findall(r"^\| `from \S+ import [^`]*` \| `from (\S+) import ([^`]*)` \|$", TEXT, flags=re.MULTILINE)
#: Entry points of section 1 that have the same name here.
SAME = re.findall(r"^\| `(\w+)\([^|]*\| same", TEXT, flags=re.MULTILINE)


def test_the_tables_are_found():
    assert len(IMPORTS) >= 20
    assert {"parse_arguments", "update_legacy_dict", "calculate_intensity_scale", "run_cdi_example"} <= set(SAME)


@pytest.mark.parametrize(("module", "names"), IMPORTS)
def test_every_import_of_the_table_works(module, names):
    for name in names.split(", "):
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize("name", SAME)
def test_every_entry_point_of_the_same_name_is_in_the_workflow(name):
    assert callable(getattr(workflow, name))


def test_another_backend_is_a_value_error():
    with pytest.raises(ValueError, match="backend.*found 'jax'"):
        TrainingConfig(model=ModelConfig(), backend="jax")


def test_parsed_arguments_become_a_configuration():
    args = workflow.parse_arguments(["--nepochs", "3", "--gridsize", "2"])
    config = workflow.setup_configuration(args, None)
    assert (config.nepochs, config.model.gridsize, config.batch_size) == (3, 2, TrainingConfig.batch_size)


def test_the_intensity_scale_of_a_container(small_scan, tiny_config):
    amplitudes = (
        np.sqrt(small_scan.patterns.intensity()) * 0.37
    )  # no photon counts: nphotons of the configuration holds
    scan = small_scan.select(np.arange(len(small_scan)))
    scan = type(scan).from_coords_without_pc(*scan.positions_px.T[::-1], amplitudes, scan.probe)
    config = replace(tiny_config, nphotons=1e9)
    container = workflow.create_ptycho_data_container(scan, config)
    assert workflow.calculate_intensity_scale(container) == pytest.approx(np.sqrt(1e9) / 16, rel=1e-6)
    assert workflow.calculate_intensity_scale(1e9, 64) == pytest.approx(988.2118, rel=1e-6)


def test_a_bundle_is_saved_from_the_results_alone(small_scan, tiny_config, tmp_path):
    config = replace(tiny_config, nepochs=1, seed=5)
    results = workflow.train_cdi_model(small_scan, None, config)
    path = workflow.save_inference_bundle(tmp_path / "out", results)
    assert path == tmp_path / "out" / "wts.h5.zip"
    assert load_bundle(path).config == config
    _, params = workflow.load_inference_bundle(tmp_path / "out")
    assert (params["N"], params["nepochs"]) == (32, 1)
    assert params["intensity_scale"] == pytest.approx(workflow.calculate_intensity_scale(config.nphotons, 32))
    with pytest.raises(ValueError, match="no such file"):
        workflow.load_inference_bundle(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        workflow.load_inference_bundle(tmp_path)


def test_a_bundle_of_an_ensemble_holds_the_settings_of_the_ensemble(small_scan, other_scan, tiny_config, tmp_path):
    config = replace(tiny_config, nepochs=1, ensemble_members=2)
    results = workflow.train_cdi_model(small_scan, other_scan, config)
    assert results["reconstructed_obj"].shape[0] == len(results["test_container"]) == len(other_scan)
    bundle = load_bundle(workflow.save_inference_bundle(tmp_path, results))
    assert bundle.config == config
    assert len(bundle.ensemble_members) == 1
