"""The workflow core: names, arguments, results and order of calls of the reference's chain."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_ray import workflow
from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import PtychoDataContainer
from ptycho_ray.errors import InputError
from ptycho_ray.workflow import (
    create_ptycho_data_container,
    reassemble_cdi_image,
    run_cdi_example,
    run_cdi_example_with_backend,
    save_outputs,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"

SIGNATURES = {
    "create_ptycho_data_container": ["data", "config"],
    "train_cdi_model": ["train_data", "test_data", "config"],
    "reassemble_cdi_image": ["test_data", "config", "flip_x", "flip_y", "transpose", "M", "coord_scale"],
    "run_cdi_example": ["train_data", "test_data", "config", "flip_x", "flip_y", "transpose", "M", "do_stitching"],
    "save_outputs": ["amplitude", "phase", "results", "output_prefix"],
    "load_inference_bundle": ["model_dir"],
    "setup_configuration": ["args", "yaml_path"],
    "load_data": [
        *("file_path", "n_images", "n_subsample", "flip_x", "flip_y", "swap_xy", "n_samples", "coord_scale"),
        "subsample_seed",
    ],
}


@pytest.fixture(scope="module")
def run(small_scan, other_scan):
    config = TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1, gridsize=2), nepochs=1, batch_size=8)
    return run_cdi_example(small_scan, other_scan, config, do_stitching=True), config


def call_orders() -> list[list[str]]:
    """The numbered lists marked callorder in docs/callchain.md, without what stands in brackets."""
    text = (DOCS / "callchain.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```callorder\n(.*?)```", text, flags=re.DOTALL)
    return [re.findall(r"^\d+\. (\w+)", block, flags=re.MULTILINE) for block in blocks]


def record_calls(monkeypatch, names: set[str]) -> list[str]:
    """Wrap functions of the workflow, wherever the package has them by name, so that entering one leaves its name in the
    returned list."""
    entered: list[str] = []
    package = [module for name, module in sys.modules.items() if name.startswith("ptycho_ray")]

    def wrapped(name, function):
        def call(*args, **kwargs):
            entered.append(name)
            return function(*args, **kwargs)

        return call

    for name in names:
        function = getattr(workflow, name)
        for module in package:
            if vars(module).get(name) is function:
                monkeypatch.setattr(module, name, wrapped(name, function))
    return entered


@pytest.mark.parametrize("name", SIGNATURES)
def test_positional_arguments_are_those_of_the_reference(name):
    parameters = inspect.signature(getattr(workflow, name)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == SIGNATURES[name]


def test_calls_happen_in_the_documented_order(monkeypatch, small_scan, other_scan, tiny_config):
    documented = call_orders()[0]
    entered = record_calls(monkeypatch, set(documented))
    workflow.run_cdi_example(small_scan, other_scan, tiny_config, do_stitching=True)
    assert entered == documented


def test_the_train_command_calls_in_the_documented_order(monkeypatch, small_scan, other_scan, tmp_path):
    documented = call_orders()[1]
    entered = record_calls(monkeypatch, set(documented))
    small_scan.to_file(tmp_path / "train.npz")
    other_scan.to_file(tmp_path / "test.npz")
    words = ["train", str(tmp_path / "train.npz"), "--test-data-file", str(tmp_path / "test.npz"), "--nepochs", "1"]
    assert main([*words, "--n-filters-scale", "1", "--output-dir", str(tmp_path / "out")]) == 0
    assert entered == documented


def test_results_have_the_keys_and_shapes_of_the_reference(run):
    amplitude, phase, results = run[0]
    groups, n, channels = len(results["test_container"]), 32, 4
    assert results["history"].keys() >= {"loss", "train_loss", "pred_intensity_loss", "learning_rate"}
    assert results["history_epochs"] == [0]
    assert isinstance(results["train_container"], PtychoDataContainer)
    for name, shape, dtype in [
        ("reconstructed_obj", (groups, n, n, 1), np.complex64),
        ("obj_tensor_full", (groups, n, n, 1), np.complex64),
        ("pred_amp", (groups, n, n, channels), np.float32),
        ("reconstructed_obj_cdi", (groups, n, n, channels), np.float32),
        ("global_offsets", (groups, 1, 2, 1), np.float64),
        ("recon_amp", amplitude.shape, np.float32),
        ("recon_phase", phase.shape, np.float32),
        ("stitched_obj", amplitude.shape, np.complex64),
    ]:
        assert results[name].shape == shape, name
        assert results[name].dtype == dtype, name
    assert np.allclose(results["pred_amp"] ** 2, results["reconstructed_obj_cdi"], rtol=1e-5)
    assert np.array_equal(results["obj_tensor_full"], results["reconstructed_obj"])
    assert np.array_equal(amplitude, np.abs(results["stitched_obj"]))


def test_the_whole_test_scan_is_reconstructed(small_scan, other_scan, tiny_config):
    """n_groups limits training only; in the reference it also caps the test set."""
    config = replace(tiny_config, n_groups=16)
    _, _, results = run_cdi_example(small_scan, other_scan, config, do_stitching=True)
    assert len(results["train_container"]) == 16
    assert len(results["test_container"]) == len(other_scan)


def test_the_test_set_gets_the_normalisation_of_training(run, other_scan):
    (_, _, results), config = run
    assert results["test_container"].normalisation == results["train_container"].normalisation
    assert create_ptycho_data_container(other_scan, config).normalisation != results["train_container"].normalisation


def test_without_stitching_or_test_data(small_scan, other_scan, tiny_config):
    for test_data, stitching in ((None, True), (other_scan, False)):
        amplitude, phase, results = run_cdi_example(small_scan, test_data, tiny_config, do_stitching=stitching)
        assert amplitude is None
        assert phase is None
        assert ("reconstructed_obj" in results) == (test_data is not None)


def test_backend_is_named(small_scan, tiny_config):
    for backend in ("tensorflow", "pytorch"):
        _, _, results = run_cdi_example_with_backend(small_scan, None, replace(tiny_config, backend=backend))
        assert results["backend"] == "pytorch"


def test_the_batch_size_does_not_change_the_image(run, other_scan):
    """Gridsize 2 in batches of 32 groups, where the reference collapses all groups into one object."""
    (_, _, results), config = run
    model = results["model_instance"]
    images = [
        reassemble_cdi_image(other_scan, config, model=model, execution=ExecutionConfig(inference_batch_size=size))
        for size in (1, 32)
    ]
    assert images[0][2]["obj_tensor_full"].shape[0] == len(other_scan)
    assert np.allclose(images[0][0], images[1][0], rtol=1e-3, atol=1e-4)


def test_crop_stitching_is_the_reference_function(run):
    (_, _, results), config = run
    amplitude, _, stitched = reassemble_cdi_image(
        results["test_container"], config, M=16, model=results["model_instance"], stitch="crop"
    )
    expected = workflow.reassemble_position(results["reconstructed_obj"], results["global_offsets"], 16)
    assert np.array_equal(stitched["stitched_obj"], expected)
    assert amplitude.shape == expected.shape


def test_flips_mirror_the_canvas_without_touching_the_container(run):
    (_, _, results), config = run
    model, container = results["model_instance"], results["test_container"]
    before = container.global_offsets.copy()
    plain = reassemble_cdi_image(container, config, model=model)[2]["stitched"]
    flipped = reassemble_cdi_image(container, config, flip_y=True, model=model)[2]["stitched"]
    assert np.array_equal(container.global_offsets, before)
    assert abs(plain.weight.shape[0] - flipped.weight.shape[0]) <= 1
    assert plain.origin_px[0] != flipped.origin_px[0]
    assert plain.origin_px[1] == flipped.origin_px[1]


def test_coordinate_scale_and_transpose(run):
    (_, _, results), config = run
    model, container = results["model_instance"], results["test_container"]
    plain = reassemble_cdi_image(container, config, model=model)[0]
    wide = reassemble_cdi_image(container, config, coord_scale=2.0, model=model)[0]
    turned = reassemble_cdi_image(container, config, transpose=True, model=model)[0]
    assert wide.shape[0] > 1.4 * plain.shape[0]
    assert turned.shape == plain.shape
    assert not np.allclose(turned, plain)


def test_containers_pass_through_and_other_types_are_refused(small_scan, tiny_config):
    container = create_ptycho_data_container(small_scan, tiny_config)
    assert create_ptycho_data_container(container, tiny_config) is container
    with pytest.raises(TypeError, match="ndarray"):
        create_ptycho_data_container(small_scan.diff3d, tiny_config)


def test_another_side_than_configured_is_named(small_scan):
    with pytest.raises(InputError, match="N.*32.*64"):
        create_ptycho_data_container(small_scan, TrainingConfig(model=ModelConfig(N=64)))


def test_the_legacy_stream_groups_like_the_reference(golden):
    """The groups of a container are those of the reference's numpy stream for the same seed (golden case)."""
    data = golden("a_grouping_small40.npz")
    from ptycho_ray.data import RawData

    scan = RawData.from_coords_without_pc(
        data["xcoords"], data["ycoords"], data["diff3d"], data["probeGuess"], np.zeros(40, int)
    )
    cases = json.loads(str(data["cases_json"]))
    name, case = next((n, c) for n, c in cases.items() if c.get("gridsize") == 2 and not c.get("sequential_sampling"))
    config = TrainingConfig(
        model=ModelConfig(N=64, gridsize=2),
        n_groups=case["nsamples"],
        neighbor_count=case["K"],
        seed=case["seed"],
        group_random_stream="numpy_legacy",
        enable_oversampling=case.get("enable_oversampling", False),
    )
    assert np.array_equal(create_ptycho_data_container(scan, config).nn_indices, data[f"{name}/nn_indices"])


def test_outputs(run, tmp_path):
    (amplitude, phase, results), _ = run
    save_outputs(amplitude, phase, results, tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"reconstructed_amplitude.png", "reconstructed_phase.png", "reconstruction.npz", "history.json"}
    saved = np.load(tmp_path / "reconstruction.npz", allow_pickle=False)
    assert np.array_equal(saved["object"], results["stitched"].image)
    assert (tmp_path / "reconstructed_amplitude.png").stat().st_size > 5000


def test_nothing_is_drawn_without_an_image(tmp_path):
    save_outputs(None, None, {"history": {"loss": [1.0]}}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["history.json"]


def test_the_core_needs_neither_ray_nor_mlflow():
    code = "import sys\nsys.modules['ray'] = sys.modules['mlflow'] = None\nimport ptycho_ray.workflow\nprint('loaded')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "loaded"
