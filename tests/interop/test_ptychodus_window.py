"""The real window of Ptychodus, drawn offscreen: our algorithms are in its list and do their work by its buttons."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ptycho_ray.data.formats.ptychodus_folder import write_standard_folder
from ptycho_ray.interop.ptychodus.options import OPTIONS
from ptycho_ray.interop.ptychodus.plugin import LIBRARY_VARIABLE

for needed in ("ptychodus", "PyQt5"):
    pytest.importorskip(needed, reason=f"{needed} is not installed (pip install 'ptycho-ray[ptychodus-tests]')")
pytest.importorskip("PyQt5.QtWidgets", reason="Qt's libraries cannot be loaded", exc_type=ImportError)
if find_spec("ptychodus.plugins.ptycho_ray_plugin") is None:
    pytest.skip("our plugin is not installed: pip install ptycho_ray/interop/ptychodus/wheel", allow_module_level=True)

GEOMETRY = {"energy_eV": 8000.0, "detector_distance_m": 2.0, "detector_pixel_m": 75e-6}
# In a process of its own, for Qt and Ptychodus change much that the other tests would see.
WINDOW = """
import sys, time
from pathlib import Path
from PyQt5.QtWidgets import QApplication
from ptychodus.model import ModelCore

folder, scratch = Path(sys.argv[1]), Path(sys.argv[2])
with ModelCore() as model:
    application = QApplication(["ptychodus"])
    from ptychodus.controller import ControllerCore
    from ptychodus.view import ViewCore

    view = ViewCore(is_developer_mode_enabled=False)
    controller = ControllerCore(model, view, is_developer_mode_enabled=False)
    controller.show_main_window("Ptychodus")
    processing = controller._processing_controller
    box, buttons = processing._algorithm_view_controller.get_widget(), processing._actions_view

    def until(condition, what):
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end, what
            application.processEvents()
            model.run_tasks()
            time.sleep(0.2)

    def press(button):
        assert button.isEnabled()
        button.click()

    offered = [box.itemText(number) for number in range(box.count())]
    print("SAID offered", *[name for name in offered if name.startswith("ptychoray")])
    model.settings_registry["PtychoRay"].parameters()["Epochs"].set_value(1)
    model.settings_registry["PtychoRay"].parameters()["FiltersScale"].set_value(1)
    settings = controller._settings_controller
    names = settings._settings_list_model.stringList()
    view.settings_view.list_view.setCurrentIndex(settings._settings_list_model.index(names.index("PtychoRay")))
    table = settings._settings_table_model
    print("SAID settings", *[table.data(table.index(row, 0)) for row in range(table.rowCount())])

    diffraction = model.workflow_api.load_assembled_diffraction_data(folder / "diffraction.h5")
    model.workflow_api.load_product(folder / "product.h5", diffraction=diffraction)
    repository = model.product_core.product_repository
    until(lambda: len(repository) == 1 and not repository[0].is_pending(), "the product is loaded")
    for name in ("ptychoray_supervised", "ptychoray_pinn"):
        box.setCurrentText(name)
        box.textActivated.emit(name)
        application.processEvents()
        print("SAID", name, buttons.reconstruct_button.text(), buttons.train_button.isVisibleTo(buttons))

    def finish():
        view.grab().save(str(scratch / "window.png"))
        view.close()

    if sys.argv[3] == "look":
        finish()
        sys.exit()
    dialogs = processing._file_dialog_factory
    dialogs.get_save_file_path = lambda *_, **__: (scratch / "train_data.npz", "")
    dialogs.get_existing_directory_path = lambda *_, **__: scratch
    processing._export_training_data_action.trigger()
    assert (scratch / "train_data.npz").is_file()
    press(buttons.train_button)
    until((scratch / "model.wts.h5.zip").is_file, "the model is written")
    until(lambda: not model.processing_core.processing_api.task_monitor.is_processing, "the training ends")
    dialogs.get_open_file_path = lambda *_, **__: (scratch / "model.wts.h5.zip", "")
    processing._load_model_action.trigger()
    press(buttons.reconstruct_button)
    made = lambda: len(repository) == 2 and repository[1].get_product().metadata.comments
    until(lambda: "one pass of the network" in (made() or ""), "the image is there")
    finish()
"""


@pytest.mark.parametrize("what", ["look", pytest.param("work", marks=pytest.mark.slow)])
def test_our_algorithms_in_the_window(tmp_path: Path, small_scan: Any, what: str) -> None:
    """Choose each and look at its settings; then export training data, train, load the model and reconstruct by the buttons."""
    folder = write_standard_folder(tmp_path / "in", small_scan, **GEOMETRY)
    (tmp_path / "out").mkdir()
    environment = {**os.environ, LIBRARY_VARIABLE: "1", "QT_QPA_PLATFORM": "offscreen", "MPLBACKEND": "qtagg"}
    done = subprocess.run(
        [sys.executable, "-c", WINDOW, str(folder), str(tmp_path / "out"), what],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert said[0] == "offered ptychoray_automatic ptychoray_pinn ptychoray_supervised"
    assert {"settings", *(option.key for option in OPTIONS)} == set(said[1].split())
    assert said[2:] == ["ptychoray_supervised Infer True", "ptychoray_pinn Infer True"]
    assert (tmp_path / "out" / "window.png").stat().st_size > 1000
