"""The real Ptychodus, without a window: it reads our files, loads our plugin, trains and reconstructs through us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PATIENCE_S, wait_for

from ptycho_ray.data.formats.ptychodus_folder import write_standard_folder
from ptycho_ray.data.formats.ptychodus_product import Product, read_product, write_product
from ptycho_ray.interop.ptychodus.plugin import LIBRARY_VARIABLE

pytest.importorskip("ptychodus", reason="ptychodus is not installed (pip install 'ptycho-ray[ptychodus-tests]')")
if find_spec("ptychodus.plugins.ptycho_ray_plugin") is None:
    pytest.skip("our plugin is not installed: pip install ptycho_ray/interop/ptychodus/wheel", allow_module_level=True)

from ptychodus.api.io import load_diffraction_data, load_product, save_product
from ptychodus.api.reconstruct import prepare_reconstruct_input
from ptychodus.model import ModelCore

GEOMETRY = {"energy_eV": 8000.0, "detector_distance_m": 2.0, "detector_pixel_m": 75e-6}
SETTINGS = (
    "[Processing]\nAlgorithm = PtychoRay_{name}\n[PtychoRay]\nEpochs = 2\nFiltersScale = 1\nValidationFraction = 0.2\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_scan: Any) -> Path:
    return write_standard_folder(tmp_path_factory.mktemp("host") / "in", small_scan, **GEOMETRY)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A running Ptychodus with our library."""
    monkeypatch.setenv(LIBRARY_VARIABLE, "1")
    with ModelCore() as model:
        yield model


def ptychodus(*words: str | Path, library: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, LIBRARY_VARIABLE: "1" if library else ""}
    return subprocess.run(
        [sys.executable, "-m", "ptychodus", *map(str, words)], capture_output=True, text=True, env=environment
    )


def test_both_sides_write_what_the_other_reads(folder: Path, tmp_path: Path) -> None:
    ours, theirs = read_product(folder / "product.h5"), load_product(folder / "product.h5")
    data = load_diffraction_data(folder / "diffraction.h5")
    given = prepare_reconstruct_input(data, theirs)
    assert given.diffraction_patterns.shape == (60, 32, 32)
    geometry = theirs.object_.get_geometry()
    columns = geometry.map_probe_positions_to_object_x_px(theirs.probe_positions)
    rows = geometry.map_probe_positions_to_object_y_px(theirs.probe_positions)
    expected = ours.to_object_px(ours.positions_m, 32) - 0.5  # the middle of a patch and not its pixel N // 2
    np.testing.assert_allclose(np.stack([rows, columns], axis=1), expected, atol=1e-9)
    save_product(tmp_path / "theirs.h5", theirs)
    back = read_product(tmp_path / "theirs.h5")
    for name in ("object", "probe", "indexes", "positions_m", "pixel_m", "centre_m"):
        np.testing.assert_array_equal(getattr(back, name), getattr(ours, name))


def test_products_with_everything_are_read(tmp_path: Path, rng: np.random.Generator) -> None:
    product = Product(
        probe=np.ones((2, 3, 8, 8), np.complex64),
        object=np.ones((2, 20, 30), np.complex64),
        pixel_m=(2e-8, 1e-8),
        centre_m=(1e-6, -1e-6),
        indexes=np.array([4, 2, 9]),
        positions_m=rng.uniform(-1e-6, 1e-6, (3, 2)),
        layer_spacing_m=np.array([1e-6]),
        losses=np.array([[1.0, 0.5]]),
        opr_weights=np.ones((3, 2)),
        photon_counts=np.arange(3.0),
        metadata={"photon_energy_eV": 8000.0, "mass_attenuation_m2_per_kg": 0.5, "far_field": False},
    )
    write_product(tmp_path / "product.h5", product)
    theirs = load_product(tmp_path / "product.h5")
    assert theirs.probe_positions.get_indexes().tolist() == [4, 2, 9]
    assert theirs.object_.get_center().x_m == -1e-6
    assert theirs.object_.get_pixel_geometry().height_m == 2e-8
    assert not theirs.metadata.far_field
    assert theirs.metadata.mass_attenuation_m2_per_kg == 0.5
    assert theirs.losses[0].value == 0.5


@pytest.mark.slow
def test_the_library_is_there_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "from ptychodus.model import ModelCore\nimport sys\n"
        "with ModelCore() as model:\n"
        "    print(sorted(n for n in model.workflow_api.available_reconstructors() if 'ptychoray' in n))\n"
        "print('torch' in sys.modules)\n"
    )
    for value, expected in (("", "[]"), ("1", "['ptychoray_automatic', 'ptychoray_pinn', 'ptychoray_supervised']")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, LIBRARY_VARIABLE: value},
            check=True,
        )
        assert done.stdout.splitlines()[-2:] == [expected, "False"]  # no GPU framework in the host


def test_a_broken_plugin_does_not_stop_the_host(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    import ptychodus.plugins.ptycho_ray_plugin as theirs

    import ptycho_ray.interop.ptychodus.library as library
    import ptycho_ray.interop.ptychodus.plugin as plugin

    def fail(*_: Any) -> None:
        raise ImportError("something is wrong with us")

    monkeypatch.setattr(plugin, "register", fail)
    theirs.register_plugins(object())
    assert "not available" in caplog.text
    caplog.clear()
    monkeypatch.setattr(library, "PtychoRayReconstructorLibrary", fail)
    assert plugin._library(None) == []
    assert "not available" in caplog.text


@pytest.mark.parametrize("release", ["1.6.0", "2.0.1"])
def test_other_releases_are_left_alone(monkeypatch: pytest.MonkeyPatch, caplog: Any, release: str) -> None:
    import ptycho_ray.interop.ptychodus.plugin as plugin

    monkeypatch.setattr(plugin, "version", lambda name: release)
    plugin.register(None)  # would fail at the first registration
    assert release in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PINN", "Supervised"])
def test_batch_training_and_reconstruction(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "settings.ini").write_text(SETTINGS.format(name=name))
    words = ["-s", folder / "settings.ini", "-i", folder]
    trained = ptychodus("-b", "train", *words, "-o", tmp_path / "model")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["model.wts.h5.zip"]
    (folder / "model.wts.h5.zip").write_bytes((tmp_path / "model" / "model.wts.h5.zip").read_bytes())
    done = ptychodus("-b", "reconstruct", *words, "-o", tmp_path / "image")
    (folder / "model.wts.h5.zip").unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = load_product(folder / "product.h5"), load_product(tmp_path / "image" / "product.000002.h5")
    assert after.object_.get_geometry() == before.object_.get_geometry()
    assert after.probe_positions.get_indexes().tolist() == before.probe_positions.get_indexes().tolist()
    photons = np.sum(np.abs(after.probes.get_array()) ** 2)
    assert after.metadata.probe_photon_count == pytest.approx(photons, rel=1e-4)
    assert np.abs(after.object_.get_array()).max() > 0


@pytest.mark.slow
def test_batch_reconstruction_without_a_model_fails(folder: Path, tmp_path: Path) -> None:
    (folder / "settings.ini").write_text(SETTINGS.format(name="PINN"))
    done = ptychodus("-b", "reconstruct", "-s", folder / "settings.ini", "-i", folder, "-o", tmp_path / "image")
    assert done.returncode == 1
    assert "has no model" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_whole_lifecycle(core: Any, folder: Path, tmp_path: Path) -> None:
    """Export, train, save, load, reconstruct, through the interfaces that the window uses."""
    api, processing = core.workflow_api, core.processing_core.processing_api
    diffraction = api.load_assembled_diffraction_data(folder / "diffraction.h5")
    product = api.load_product(folder / "product.h5", diffraction=diffraction)
    group = core.settings_registry["PtychoRay"]
    for key, value in (("Epochs", 2), ("FiltersScale", 1)):
        group.parameters()[key].set_value(value)
    algorithm = "ptychoray_pinn"
    assert processing.get_training_data_file_filter(algorithm=algorithm).endswith("(*.npz)")
    assert processing.get_model_file_filter(algorithm=algorithm).endswith("(*.wts.h5.zip)")
    assert processing.get_model_file_extension(algorithm=algorithm) == ".wts.h5.zip"
    with pytest.raises(RuntimeError, match="no model"):
        processing.save_model_to_file(tmp_path / "model.wts.h5.zip", algorithm)
    with pytest.raises(ValueError, match="not a model of ptycho_ray"):
        processing.load_model_from_file(folder / "product.h5", algorithm)

    data = tmp_path / "training"
    data.mkdir()
    product.export_training_data(data / "train_data.npz", algorithm=algorithm)
    product.train_reconstructor_local(data, data, algorithm=algorithm, block=True)
    assert sorted(file.name for file in data.iterdir()) == ["model.wts.h5.zip", "train_data.npz"]
    processing.save_model_to_file(tmp_path / "kept.wts.h5.zip", algorithm)
    processing.load_model_from_file(tmp_path / "kept.wts.h5.zip", algorithm)
    result = product.reconstruct_local(algorithm=algorithm, block=True)
    core.run_tasks()
    metadata = result.get_product().metadata
    assert "sum |P|^2" in metadata.comments
    assert metadata.name.endswith("ptychoray_pinn")
    assert np.abs(result.get_product().object_.get_array()).max() > 0


@pytest.mark.slow
def test_the_automatic_reconstruction_needs_no_model(core: Any, folder: Path) -> None:
    api = core.workflow_api
    diffraction = api.load_assembled_diffraction_data(folder / "diffraction.h5")
    product = api.load_product(folder / "product.h5", diffraction=diffraction)
    group = core.settings_registry["PtychoRay"].parameters()
    group["Solver"].set_value("iterations=6 position_start=0")
    group["Seed"].set_value(2)
    before = product.get_product()
    result = product.reconstruct_local(algorithm="ptychoray_automatic", block=True)
    core.run_tasks()
    after = result.get_product()
    assert "patterns that were left out of it" in after.metadata.comments
    assert len(after.losses) == 6
    assert after.probe_positions.get_indexes().tolist() == before.probe_positions.get_indexes().tolist()
    moved = after.probe_positions.get_coordinates_x_m() - before.probe_positions.get_coordinates_x_m()
    assert 1e-3 < np.abs(moved).max() / after.object_.get_pixel_geometry().width_m < 5
    assert np.abs(after.object_.get_array()).max() > 0


def test_a_killed_program_is_an_error_and_not_a_wait(core: Any, folder: Path, tmp_path: Path) -> None:
    api = core.workflow_api
    diffraction = api.load_assembled_diffraction_data(folder / "diffraction.h5")
    product = api.load_product(folder / "product.h5", diffraction=diffraction)
    command = core.settings_registry["PtychoRay"].parameters()["Command"]
    command.set_value(f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'")
    with pytest.raises(Exception, match="SIGKILL"):
        product.train_reconstructor_local(folder, tmp_path, algorithm="ptychoray_pinn", block=True)


@pytest.mark.slow
def test_stop_is_heard_during_training(core: Any, folder: Path, tmp_path: Path) -> None:
    api, processing = core.workflow_api, core.processing_core.processing_api
    diffraction = api.load_assembled_diffraction_data(folder / "diffraction.h5")
    product = api.load_product(folder / "product.h5", diffraction=diffraction)
    for key, value in (("Epochs", 5000), ("FiltersScale", 1)):
        core.settings_registry["PtychoRay"].parameters()[key].set_value(value)
    product.train_reconstructor_local(folder, tmp_path, algorithm="ptychoray_pinn")
    monitor = processing.task_monitor
    wait_for(lambda: monitor.is_processing, "the start of the training")
    before = monitor.get_completed_runs()
    monitor.stop_processing()
    assert monitor.wait_for_completion_after(before, timeout=PATIENCE_S)
    assert not list(tmp_path.iterdir())


def test_scans_that_ptychodus_cannot_read(core: Any, small_scan: Any, tmp_path: Path) -> None:
    """PtychoPINN's NPZ: counts, positions and geometry arrive, and the scan becomes a standard folder."""
    path = tmp_path / "scan.npz"
    small_scan.to_file(path)
    api = core.workflow_api
    with pytest.raises(RuntimeError, match="Failed to read") as caught:
        api.load_product(path, file_type="PtychoRay_PtychoPINN")
    assert "ptycho_ray.yaml" in str(caught.value.__cause__)
    (tmp_path / "ptycho_ray.yaml").write_text("".join(f"{name}: {value}\n" for name, value in GEOMETRY.items()))
    diffraction = api.load_diffraction_data(path, file_type="PtychoRay_PtychoPINN", block=True)
    product = api.load_product(path, file_type="PtychoRay_PtychoPINN", diffraction=diffraction)
    given = product.get_reconstruct_input()
    np.testing.assert_array_equal(given.diffraction_patterns, np.rint(small_scan.patterns.intensity()))
    geometry = given.product.object_.get_geometry()
    columns = geometry.map_probe_positions_to_object_x_px(given.product.probe_positions)
    np.testing.assert_allclose(columns + 0.5, small_scan.xcoords, atol=1e-6)


@pytest.mark.slow
def test_a_scan_that_is_dropped_comes_back_as_a_product(
    core: Any, small_scan: Any, tmp_path: Path, write_bundle: Any
) -> None:
    """The whole way: watched folder, reconstruction beside the host, product in its list."""
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "ptycho_ray.yaml").write_text(
        "".join(f"{name}: {value}\n" for name, value in GEOMETRY.items()) + "model: ../model.zip\n"
    )
    write_bundle(tmp_path / "model.zip")
    automation = core.automation_core
    automation.settings.data_directory.set_value(watched)
    automation.settings.watchdog_delay_s.set_value(1)
    automation.presenter.set_current_workflow("PtychoRay")
    automation.presenter.set_watcher_enabled(True)
    small_scan.to_file(tmp_path / "elsewhere" / "scan_7.npz")
    shutil.copyfile(tmp_path / "elsewhere" / "scan_7.npz", watched / "scan_7.npz")
    repository = core.product_core.product_repository

    def has_come() -> bool:
        core.run_tasks()
        return len(repository) > 0

    wait_for(has_come, "the product in the list of the host", every=0.2)
    product = repository[0].get_product()
    assert product.object_.get_array().any()
    assert product.metadata.photon_energy_eV == 8000.0
    assert (watched / "reconstructed" / "scan_7.npz.product.h5").is_file()


@pytest.fixture(scope="session")
def write_bundle(small_scan: Any) -> Any:
    """``write_bundle(path)`` writes a model with random weights that fits the small scan."""

    def write(path: Path) -> Path:
        import torch

        from ptycho_ray.bundle import Bundle, save_bundle
        from ptycho_ray.config import ModelConfig, TrainingConfig
        from ptycho_ray.models.physics_informed import PhysicsInformedModel
        from ptycho_ray.workflow import create_ptycho_data_container, physical_probe

        config = TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1), nepochs=1)
        container = create_ptycho_data_container(small_scan, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))
        return save_bundle(path, Bundle(model, config))

    return write
