"""The interface for notebooks and scripts: ``import ptycho_ray as pr``::

    scan = pr.load("scan.npz")
    image = pr.reconstruct(scan)                      # decides by the patterns what the scan needs, solves and judges
    image = pr.reconstruct(scan, nepochs=5)           # trains a network on the scan's diffraction, then reconstructs it
    other = pr.reconstruct("other.npz", model=image)  # one pass of the trained network

Each function calls the workflow and nothing else; ``api/`` has the others. In Jupyter, scans, probes and images are
displayed as figures.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config.reading import Reading
from ptycho_ray.config.types import unknown_setting
from ptycho_ray.data import RawData, load_data
from ptycho_ray.display.notebook import card, scan_html
from ptycho_ray.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

    from ptycho_ray.automatic.reconstruct import Automatic
    from ptycho_ray.bundle import Bundle
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.reconstruction.stitching import StitchedObject
    from ptycho_ray.refinement.result import RefinementResult


def load(path: str | Path, **options: Any) -> RawData:
    """Read a scan of any format; ``options`` are those of :func:`ptycho_ray.load_data` (``units="um"``, ``n_subsample=500``)
    and have the names of the commands' options.

    Raises:
        InputError: the file or an option cannot be used, with the nearest option for one that does not exist.
    """
    known = [*list(inspect.signature(load_data).parameters)[:-1], *(each.name for each in dataclasses.fields(Reading))]
    for name in options:
        if name not in known:
            raise unknown_setting(name, known)
    if not isinstance(path, str | os.PathLike):
        raise _no_scan(path, "path", "the name of a file")
    return load_data(path, **options)


def as_scan(scan: RawData | str | Path) -> RawData:
    """A scan as it is, or read from its file."""
    if isinstance(scan, RawData):
        return scan
    if not isinstance(scan, str | os.PathLike):
        raise _no_scan(scan, "scan", "a scan or the name of its file")
    return load(scan)


def _no_scan(found: object, field: str, expected: str) -> ConfigurationError:
    array = isinstance(found, np.ndarray)
    return ConfigurationError(
        field=field,
        found=f"an array of {found.dtype} {found.shape}" if array else f"{type(found).__name__} {found!r:.40}",  # type: ignore[attr-defined]
        expected=expected,
        hint="Arrays make a scan by ptycho_ray.RawData(x, y, x, y, amplitudes, probe)" if array else None,
    )


@dataclass(frozen=True, repr=False)
class Probe:
    """The probe of a scan, for display: modes [P, N, N]."""

    modes: NDArray[np.complex64]
    pixel_size_m: float | None = None

    def __repr__(self) -> str:
        return f"Probe({len(self.modes)} modes of {self.modes.shape[-1]}x{self.modes.shape[-1]})"

    def _repr_html_(self) -> str:
        from ptycho_ray.display.figures import plot_probe

        powers = np.sum(np.abs(self.modes) ** 2, axis=(1, 2))
        facts = {"modes": len(self.modes), "N": self.modes.shape[-1], "sum |P|^2": float(powers.sum())}
        return card("Probe", facts, [plot_probe(self.modes, pixel_size_m=self.pixel_size_m)])


def probe(scan: RawData) -> Probe:
    """The probe of a scan, in a form that Jupyter displays."""
    return Probe(scan.probe, scan.pixel_size_m)


@dataclass(frozen=True, repr=False)
class Reconstruction:
    """A reconstructed scan.

    Attributes:
        image: complex transmission [H, W]; zero where nothing was measured.
        weight: illumination of each pixel.
        origin_px: position of pixel (0, 0) in the coordinates of the scan.
        scan: what was reconstructed.
        bundle: the trained network; None if none was used.
        history: one list per metric, with one value per epoch; empty if nothing was trained.
        automatic: without a network, how it was decided and solved, and the verdict.
        refinement: of :func:`ptycho_ray.refine`, all that was solved for.
    """

    stitched: StitchedObject
    scan: RawData
    bundle: Bundle | None
    history: Mapping[str, list[float]] = field(default_factory=dict)
    automatic: Automatic | None = None
    refinement: RefinementResult | None = None

    @property
    def refined_scan(self) -> RawData:
        """The scan with the probe and the positions that belong to the image."""
        return self.scan if self.automatic is None else self.automatic.refined_scan

    @property
    def image(self) -> NDArray[np.complex64]:
        return self.stitched.image

    @property
    def weight(self) -> NDArray[np.float32]:
        return self.stitched.weight

    @property
    def origin_px(self) -> tuple[float, float]:
        return self.stitched.origin_px

    @property
    def amplitude(self) -> NDArray[np.float32]:
        """[H, W]."""
        return np.abs(self.image)

    @property
    def phase(self) -> NDArray[np.float32]:
        """[H, W], radians."""
        return np.angle(self.image)

    def __repr__(self) -> str:
        height, width = self.image.shape
        return f"Reconstruction({height}x{width} pixels of {len(self.scan)} patterns, {self.scan.source!r})"

    def save(self, path: str | Path) -> Path:
        """Write the image: ``reconstruction.npz`` into a folder, or a file .npz or .h5 (a product of Ptychodus)."""
        path = Path(path)
        if path.suffix.lower() in (".h5", ".hdf5"):
            from ptycho_ray.data.formats.ptychodus_folder import product_of_scan
            from ptycho_ray.data.formats.ptychodus_product import write_product

            write_product(path, product_of_scan(self.scan, self.image, self.origin_px, "Reconstructed by ptycho_ray."))
            return path
        path = path if path.suffix == ".npz" else path / "reconstruction.npz"
        self.stitched.save(path, self.scan.pixel_size_m)
        return path

    def save_model(self, place: str | Path) -> Path:
        """Write the trained network (``wts.h5.zip``), which :func:`reconstruct` and ``ptycho-ray`` take.

        Raises:
            ConfigurationError: no network was used.
        """
        from ptycho_ray.bundle import save_bundle

        if self.bundle is None:
            raise ConfigurationError(
                field="nepochs", found="an image without a network", expected="one of reconstruct(scan, nepochs=...)"
            )
        return save_bundle(place, self.bundle)

    def figures_of_merit(self) -> dict[str, float]:
        """Consistency with the diffraction data (R-factor, and that of a flat object; without a network by patterns that took
        no part, and with that of photon noise), and with a known object the mean errors of amplitude and phase after
        registration."""
        from ptycho_ray.evaluation import evaluate_reconstruction
        from ptycho_ray.reconstruction.images import Image
        from ptycho_ray.refinement.explained_image import explained_diffraction

        region = self.stitched.covered()
        if self.automatic is None:
            figures = explained_diffraction(Image(self.image, region, self.origin_px), self.scan)
            figures.pop("patterns")
        else:
            verdict = self.automatic.verdict.figures()
            figures = {name: value for name, value in verdict.items() if "r_factor" in name or name == "times_noise"}
        if self.scan.object_truth is not None:
            found = evaluate_reconstruction(self.image, self.scan.object_truth, origin_px=self.origin_px, region=region)
            figures |= {"amplitude_mae": found.amplitude.mae, "phase_mae": found.phase.mae}
        return figures

    def _repr_html_(self) -> str:
        from ptycho_ray.display.figures import plot_history, plot_object

        facts: dict[str, Any] = {
            "scan": Path(self.scan.source).name or "in memory",
            "patterns": len(self.scan),
            "pixels": list(self.image.shape),
            "pixel size in m": self.scan.pixel_size_m,
        }
        if self.automatic is not None:
            facts["verdict"] = self.automatic.verdict.sentence
        if self.bundle is not None:
            facts["network"] = self.bundle.config.model.architecture
            facts["epochs"] = len(self.bundle.history.get("loss", []))
        pictures = [plot_object(self.image, region=self.stitched.covered(), pixel_size_m=self.scan.pixel_size_m)]
        if self.history:
            pictures.append(plot_history(self.history))
        return card("Reconstruction", facts, pictures)


def reconstruct(
    scan: RawData | str | Path,
    model: Reconstruction | str | Path | None = None,
    *,
    refinement: Mapping[str, Any] | None = None,
    budget_s: float | None = None,
    uncertainty: bool = False,
    device: str = "auto",
    config: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Reconstruction:
    """Reconstruct a scan: with nothing else given, by what its patterns say it needs (``docs/automatic.md``); with a trained
    ``model`` in one pass; with settings of a training by a network trained on the scan's diffraction.

    Args:
        scan: a scan or its file.
        model: an earlier reconstruction, or a bundle or its folder.
        refinement: settings of the solver that are given and not decided: ``{"probe_modes": 2}`` (those of ``ptycho-ray
            refine``). With a model its image is refined with them.
        budget_s: without a network, limit on the processor seconds of the trials.
        uncertainty: without a network, also determine error bars: ``amplitude_std`` and ``phase_std`` of ``stitched``.
        device: where it is computed: auto, cpu, cuda, cuda:1, mps; 'auto' takes a GPU if there is one.
        config: YAML file with settings of the training; ``settings`` take precedence: ``nepochs=5``, ``gridsize=2``,
            ``learning_rate=1e-3`` (those of ``ptycho-ray train``, and its network where none is chosen). ``seed`` alone is the
            seed of the automatic reconstruction.
        progress: report every decision, or every epoch.

    Raises:
        InputError, ConfigurationError: the scan or a setting cannot be used.
    """
    from ptycho_ray import workflow
    from ptycho_ray.bundle import load_bundle
    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.refinement.config import RefinementConfig
    from ptycho_ray.training.device import resolve_device

    raw = as_scan(scan)
    solver = RefinementConfig(**refinement) if refinement else None
    training = config is not None or bool(set(settings) - {"seed"})
    alone = "uncertainty" if uncertainty else "budget_s" if budget_s is not None else None
    if alone is not None and (model is not None or training):
        raise ConfigurationError(field=alone, found="given with a network", expected="no model and no training")
    there = resolve_device(ExecutionConfig(accelerator=device))
    if model is not None:
        if settings or config is not None:
            raise ConfigurationError(
                field=next(iter(settings), "config"),
                found="given together with a model",
                expected="settings of a training",
            )
        bundle = model.bundle if isinstance(model, Reconstruction) else load_bundle(model)
        if bundle is None:
            raise ConfigurationError(field="model", found="an image without a network", expected="one with a network")
        for each in bundle.models:
            each.to(there)
        _, _, results = workflow.reassemble_cdi_image(
            raw, bundle.config, model=bundle.models, refinement=solver, keep_patches=False
        )
        return Reconstruction(results["stitched"], raw, bundle)
    if not training:
        tell = print if progress else lambda line: None
        made = workflow.reconstruct_scan(
            raw, settings=refinement, budget_s=budget_s, uncertainty=uncertainty, device=there, tell=tell, **settings
        )
        return Reconstruction(made.refinement.stitched, made.scan, None, automatic=made)
    if solver is not None:
        raise ConfigurationError(
            field="refinement", found="given with settings of a training", expected="refinement_iterations, or a model"
        )
    return train(raw, config=config, device=device, progress=progress, **settings)


def train(
    scan: RawData | str | Path,
    *further: RawData | str | Path,
    network: nn.Module | Callable[[ModelConfig], nn.Module] | None = None,
    config: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> Reconstruction:
    """Train a network on the diffraction of a scan, or of several, and reconstruct the first with it, as ``ptycho-ray train``.

    Args:
        further: more scans that share the network; each keeps its own probe and scales.
        network: one of your own in place of ``architecture``: a module, or a function from the settings to one
            (:func:`ptycho_ray.register_network`, under its name).
        config, device, settings, progress: as for :func:`reconstruct`.

    Returns:
        The image of the first scan and, as ``bundle``, the network, which :func:`reconstruct` takes as ``model``.

    Raises:
        ConfigurationError: a setting does not exist, with the nearest one, or is out of range.
    """
    from ptycho_ray import workflow
    from ptycho_ray.bundle import Bundle
    from ptycho_ray.config import TrainingConfig
    from ptycho_ray.config.sources import resolve_config, setting_names
    from ptycho_ray.display.progress import TrainingProgress, first_look
    from ptycho_ray.display.report import provenance
    from ptycho_ray.training.settings_of_scans import fitted_to_scans

    if network is not None:
        from ptycho_ray.models.registry import register_network

        if "architecture" in settings:
            raise ConfigurationError(
                field="network", found="given together with architecture", expected="one of the two"
            )
        settings["architecture"] = getattr(network, "__name__", type(network).__name__)
        register_network(settings["architecture"], network)
    scans = [as_scan(each) for each in (scan, *further)]
    executions = {name for name in setting_names(TrainingConfig) if name.startswith("execution.")}
    settings = ({} if device == "auto" else {"accelerator": device}) | settings
    typed = {f"execution.{name}" if f"execution.{name}" in executions else name: settings[name] for name in settings}
    resolved = resolve_config(TrainingConfig, config, typed=typed, typed_name="argument")
    chosen = fitted_to_scans(resolved, scans)
    quicker = first_look(chosen.nepochs, sum(len(each) * each.N**2 for each in scans), notebook=True)
    callbacks = [TrainingProgress(chosen.nepochs, first_look=quicker)] if progress else []
    first = scans[0]
    how: dict[str, Any] = {"execution": resolved.execution, "keep_patches": False}
    results = workflow.train_cdi_model(
        scans if further else first, None if further else first, chosen, callbacks=callbacks, **how
    )
    members = results.get("ensemble", [results["model_instance"]])
    _, _, image = workflow.reassemble_cdi_image(first, chosen, model=members, **how)
    files = [Path(each.source) for each in scans if each.source and Path(each.source).is_file()]
    origin = provenance(seed=chosen.seed, data_files=files)
    bundle = Bundle(results["model_instance"], chosen, origin, results["history"], tuple(members[1:]))
    return Reconstruction(image["stitched"], first, bundle, results["history"])


# Jupyter asks the class itself how to show a scan; pictures are above the data in the order of rooms.
RawData._repr_html_ = scan_html  # type: ignore[attr-defined]
