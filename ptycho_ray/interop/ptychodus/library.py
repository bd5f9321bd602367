"""Our ways among the algorithms of Ptychodus: the library ``PtychoRay`` with ``Automatic``, and the networks ``PINN`` and
``Supervised``.

Loaded inside Ptychodus. All computing happens in another process (``ptycho_ray.interop.ptychodus.process``).
"""

from __future__ import annotations

import logging
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ptychodus.api.object import Object
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import LossValue
from ptychodus.api.product import Product as HostProduct
from ptychodus.api.reconstruct import (
    ReconstructInput,
    Reconstructor,
    ReconstructorLibrary,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)
from ptychodus.api.settings import SettingsRegistry

from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M
from ptycho_ray.data.formats.ptychodus_folder import with_photons_of_patterns
from ptycho_ray.data.formats.ptychodus_product import (
    DIFFRACTION_FILE,
    PRODUCT_FILE,
    Product,
    read_product,
    write_diffraction,
    write_product,
)
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.interop.ptychodus.options import (
    COMMAND,
    CONFIG_FILE,
    GROUP,
    OPTIONS,
    RECORD_IMAGES,
    SOLVER,
    solver_settings,
)
from ptycho_ray.interop.ptychodus.process import run_program

#: Ptychodus looks for ``model`` + this in the input folder of a batch run.
MODEL_EXTENSION = ".wts.h5.zip"
MODEL = f"model{MODEL_EXTENSION}"
CHUNK = 256
#: A reconstruction is asked so often whether it should go on.
RECONSTRUCT_HEARTBEAT_S = 5.0


class PtychoRayReconstructorLibrary(ReconstructorLibrary):
    """The reconstructors and their settings, the group ``PtychoRay`` of the host's registry."""

    def __init__(self, settings_registry: SettingsRegistry) -> None:
        super().__init__("ptychoray")
        self.settings = HostSettings(settings_registry)
        self._reconstructors: list[Reconstructor] = [
            AutomaticReconstructor(self.settings, self.get_logger()),
            PtychoRayReconstructor("PINN", "pinn", self.settings, self.get_logger()),
            PtychoRayReconstructor("Supervised", "supervised", self.settings, self.get_logger()),
        ]

    @property
    def name(self) -> str:
        return GROUP  # no underscore: Ptychodus splits 'library_reconstructor' at the first one

    def __iter__(self) -> Iterator[Reconstructor]:
        return iter(self._reconstructors)


class HostSettings:
    """The options of ``ptycho_ray.interop.ptychodus.options`` as parameters of the host; read when they are used."""

    def __init__(self, registry: SettingsRegistry) -> None:
        group = registry.create_group(GROUP)
        self.parameters: dict[str, Any] = {}
        for option in OPTIONS:
            if option.kind == "text":
                parameter: Any = group.create_string_parameter(option.key, str(option.default))
            elif option.kind == "boolean":
                parameter = group.create_boolean_parameter(option.key, bool(option.default))
            else:
                create: Any = (
                    group.create_integer_parameter if option.kind == "integer" else group.create_real_parameter
                )
                parameter = create(option.key, option.default, minimum=option.minimum, maximum=option.maximum)
            self.parameters[option.key] = parameter

    def epochs(self) -> int:
        return int(self.parameters["Epochs"].get_value())

    def command(self) -> list[str]:
        """The program to run instead of this Python's ``ptycho-ray``; empty for the latter."""
        return shlex.split(self.parameters["Command"].get_value())

    def words(self) -> list[str]:
        """The settings of a training as words of a command line, where they are not the defaults."""
        words = ["--execution.recon-log-every-n-epochs", "None"]  # nobody would see the images on the way
        for option in OPTIONS:
            value = self.parameters[option.key].get_value()
            if value == option.default or option.setting in (COMMAND, RECORD_IMAGES, SOLVER):
                continue
            name = "config" if option.setting == CONFIG_FILE else option.setting.removeprefix("model.")
            words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    def solver_words(self) -> list[str]:
        """Seed and settings of the automatic reconstruction as words of a command line."""
        words = ["--seed", str(self.parameters["Seed"].get_value())]
        for name, value in solver_settings(self.parameters["Solver"].get_value()).items():
            words += [f"--refinement.{name.replace('_', '-')}", str(value)]
        return words


class AutomaticReconstructor(Reconstructor):
    """The reconstruction without a network: what is unknown about the scan is decided by its patterns (docs/automatic.md)."""

    def __init__(self, settings: HostSettings, log: logging.Logger) -> None:
        self._settings, self._log, self._goal = settings, log, 1

    @property
    def name(self) -> str:
        return "Automatic"

    def get_progress_goal(self) -> int:
        return self._goal

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """Decide and solve. Until it is done, the unchanged product is yielded regularly, with the iterations as progress, so
        that the host can stop the run. The last product has the positions that were found."""
        with tempfile.TemporaryDirectory(prefix="ptycho-ray-") as scratch:
            given, output_folder = Path(scratch) / "in", Path(scratch) / "out"
            write_input(given, parameters)
            words = ["--input", str(given), "--output", str(output_folder), *self._settings.solver_words()]
            done = 0
            for event in run_on_host(self._settings, "reconstruct", words, RECONSTRUCT_HEARTBEAT_S, self._log):
                if event is not None and event["event"] == "decided":
                    self._log.info("%s", event["text"])
                if event is not None and event["event"] == "epoch":
                    self._goal, done = int(event["num_epochs"]), int(event["epoch"])
                if event is None or event["event"] == "epoch":
                    yield ReconstructOutput(parameters.product, progress=min(done, self._goal - 1))
            result = read_product(output_folder / PRODUCT_FILE)
        made = with_positions(with_result(parameters.product, result), result.positions_m)
        yield ReconstructOutput(made, progress=self._goal)


def run_on_host(
    settings: HostSettings, action: str, words: list[str], heartbeat_s: float, log: logging.Logger
) -> Iterator[dict[str, Any] | None]:
    """The events of ``ptycho-ray ACTION``, run as the settings say."""
    log.info("ptycho-ray %s %s", action, shlex.join(words))
    yield from run_program([action, *words], command=settings.command(), heartbeat_s=heartbeat_s, log=log)


class PtychoRayReconstructor(TrainableReconstructor):
    """One way of training (``model_type``), and reconstruction with what was trained or loaded."""

    def __init__(self, name: str, model_type: str, settings: HostSettings, log: logging.Logger) -> None:
        self._name, self._model_type, self._settings, self._log = name, model_type, settings, log
        self._model: Path | None = None

    @property
    def name(self) -> str:
        return self._name

    def get_progress_goal(self) -> int:
        return self._settings.epochs()

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """One pass of the network. Until it is done, the unchanged product is yielded regularly, so that the host
        can stop the run; its number is 0, that of the result the progress goal."""
        if self._model is None:
            raise RuntimeError(
                f"{GROUP} {self._name} has no model: train one, load one, or put {MODEL} into the input folder"
            )
        with tempfile.TemporaryDirectory(prefix="ptycho-ray-") as scratch:
            given, output_folder = Path(scratch) / "in", Path(scratch) / "out"
            write_input(given, parameters)
            words = ["--input", str(given), "--output", str(output_folder), "--model-path", str(self._model)]
            for _ in self._run("reconstruct", words, heartbeat_s=RECONSTRUCT_HEARTBEAT_S):
                yield ReconstructOutput(parameters.product, progress=0)
            result = read_product(output_folder / PRODUCT_FILE)
        yield ReconstructOutput(with_result(parameters.product, result), progress=self.get_progress_goal())

    def is_model_loaded(self) -> bool:
        return self._model is not None

    def get_model_file_filter(self) -> str:
        return f"ptycho_ray Models (*{MODEL_EXTENSION})"

    def get_model_file_extension(self) -> str:
        return MODEL_EXTENSION

    def load_model_from_file(self, file_path: Path) -> None:
        """Remember the model; only its type is checked now, the rest when it is used."""
        if not zipfile.is_zipfile(file_path) or "manifest.json" not in zipfile.ZipFile(file_path).namelist():
            raise ValueError(f"{file_path} is not a model of ptycho_ray ({MODEL_EXTENSION})")
        self._model = Path(file_path)

    def save_model(self, file_path: Path) -> None:
        if self._model is None:
            raise RuntimeError(f"{GROUP} {self._name} has no model to save: none was trained or loaded")
        if Path(file_path).resolve() != self._model.resolve():
            shutil.copyfile(self._model, file_path)

    def get_training_data_file_filter(self) -> str:
        return "NumPy Zipped Archive (*.npz)"

    def export_training_data(self, file_path: Path, parameters: ReconstructInput) -> None:
        """The scan as an NPZ with the keys of PtychoPINN; ``train`` looks for ``train_data.npz``."""
        product = from_host(parameters.product)
        patterns = np.asarray(parameters.diffraction_patterns)
        positions = product.to_object_px(product.positions_m, patterns.shape[-1])
        bad = parameters.bad_pixels
        raw = RawData(
            positions[:, 1],
            positions[:, 0],
            None,
            None,
            PatternStack(patterns, "intensity", bad_pixels=bad),
            product.probe[0],
            objectGuess=product.object.prod(axis=0),
            counts_are_photons=True,
            pixel_size_m=product.pixel_m[1],
            energy_eV=parameters.product.metadata.photon_energy_eV,
            detector_distance_m=parameters.product.metadata.detector_distance_m,
            scan_index=parameters.product.probe_positions.get_indexes(),
        )
        with_photons_of_patterns(raw).to_file(file_path)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        """Train on a folder of the standard layout or on exported data; writes ``model.wts.h5.zip`` and nothing else."""
        training: list[LossValue] = []
        validation: list[LossValue] = []
        progress = 0
        with tempfile.TemporaryDirectory(prefix="ptycho-ray-") as output_folder:
            words = ["--input", str(input_path), "--output", output_folder, "--model-type", self._model_type]
            for event in self._run("train", [*words, *self._settings.words()]):
                if event is not None and event["event"] == "epoch":
                    progress = int(event["epoch"])
                    training.append(LossValue(progress, float(event["loss"])))
                    if event.get("val_loss") is not None:
                        validation.append(LossValue(progress, float(event["val_loss"])))
                yield TrainOutput(list(training), list(validation), progress=progress)
            output_path.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(output_folder) / MODEL, output_path / MODEL)
        self._model = output_path / MODEL

    def _run(self, action: str, words: list[str], heartbeat_s: float = 1.0) -> Iterator[dict[str, Any] | None]:
        yield from run_on_host(self._settings, action, words, heartbeat_s, self._log)


def write_input(folder: Path, parameters: ReconstructInput) -> None:
    """The data from the host as a folder of the standard layout, numbered consecutively."""
    product = from_host(parameters.product)
    patterns = parameters.diffraction_patterns
    if len(patterns) != len(product.indexes):
        raise ValueError(f"{len(patterns)} patterns for {len(product.indexes)} positions")
    folder.mkdir()
    n, metadata = patterns.shape[-1], parameters.product.metadata
    wavelength = PLANCK_TIMES_LIGHT_EV_M / metadata.photon_energy_eV if metadata.photon_energy_eV > 0 else 0.0
    detector = [wavelength * abs(metadata.detector_distance_m) / (n * size) or 1.0 for size in product.pixel_m]
    bad = parameters.bad_pixels
    write_diffraction(
        folder / DIFFRACTION_FILE,
        (np.asarray(patterns[first : first + CHUNK]) for first in range(0, len(patterns), CHUNK)),
        product.indexes,
        np.zeros(patterns.shape[1:], dtype=bool) if bad is None else np.asarray(bad),
        (detector[0], detector[1]),
    )
    write_product(folder / PRODUCT_FILE, product)


def from_host(host: HostProduct) -> Product:
    """A Ptychodus product as one of ours, with its positions numbered consecutively."""
    geometry = host.object_.get_geometry()
    positions, metadata = host.probe_positions, host.metadata
    return Product(
        probe=host.probes.get_array(),
        object=host.object_.get_array(),
        pixel_m=(geometry.pixel_height_m, geometry.pixel_width_m),
        centre_m=(geometry.center_y_m, geometry.center_x_m),
        indexes=np.arange(len(positions)),
        positions_m=np.stack([positions.get_coordinates_y_m(), positions.get_coordinates_x_m()], axis=1),
        layer_spacing_m=np.asarray(host.object_.layer_spacing_m, dtype=float),
        metadata={
            "name": metadata.name,
            "comments": metadata.comments,
            "photon_energy_eV": metadata.photon_energy_eV,
            "detector_object_distance_m": metadata.detector_distance_m,
        },
    )


def with_result(host: HostProduct, result: Product) -> HostProduct:
    """The host's product with our object, probe and remarks; everything else, especially the positions, is the host's."""
    size, middle = host.object_.get_pixel_geometry(), host.object_.get_center()
    return replace(
        host,
        metadata=replace(
            host.metadata,
            comments=result.metadata["comments"],
            probe_photon_count=result.metadata["probe_photon_count"],
        ),
        object_=Object(result.object, size.copy(), middle.copy(), []),
        probes=ProbeSequence(result.probe, None, host.probes.get_pixel_geometry().copy()),
        losses=[LossValue(int(epoch), float(value)) for epoch, value in result.losses],
    )


def with_positions(host: HostProduct, positions_m: np.ndarray) -> HostProduct:
    """The host's product with other positions (row, column) [n, 2] of the same numbers."""
    moved = [
        ProbePosition(old.index, float(column), float(row), old.probe_photon_count)
        for old, (row, column) in zip(host.probe_positions, positions_m, strict=True)
    ]
    return replace(host, probe_positions=ProbePositionSequence(moved))
