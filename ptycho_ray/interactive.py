"""The interface for notebooks and scripts: ``import ptycho_ray as pr``::

    scan = pr.load("scan.npz")
    image = pr.reconstruct(scan)                      # decides by the patterns what the scan needs, solves and judges
    image = pr.reconstruct(scan, nepochs=5)           # trains a network on the scan's diffraction, then reconstructs it
    other = pr.reconstruct("other.npz", model=image)  # one pass of the trained network

Each function calls the workflow and nothing else. In Jupyter, scans, probes and images are displayed as figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data import RawData, load_data
from ptycho_ray.display.notebook import card, scan_html

if TYPE_CHECKING:
    from ptycho_ray.automatic.reconstruct import Automatic
    from ptycho_ray.bundle import Bundle
    from ptycho_ray.reconstruction.stitching import StitchedObject


def load(path: str | Path, **options: Any) -> RawData:
    """Read a scan of any format; ``options`` are those of :func:`ptycho_ray.load_data`."""
    return load_data(path, **options)


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
    """

    stitched: StitchedObject
    scan: RawData
    bundle: Bundle | None
    history: Mapping[str, list[float]] = field(default_factory=dict)
    automatic: Automatic | None = None

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
        self.stitched.save(path)
        return path

    def save_model(self, place: str | Path) -> Path:
        """Write the trained network (``wts.h5.zip``), which :func:`reconstruct` and ``ptycho-ray`` take.

        Raises:
            ConfigurationError: no network was used.
        """
        from ptycho_ray.bundle import save_bundle
        from ptycho_ray.errors import ConfigurationError

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
    from ptycho_ray.bundle import Bundle, load_bundle
    from ptycho_ray.config import ExecutionConfig, TrainingConfig
    from ptycho_ray.config.sources import resolve_config, setting_names
    from ptycho_ray.display.progress import TrainingProgress, first_look
    from ptycho_ray.display.report import provenance
    from ptycho_ray.errors import ConfigurationError
    from ptycho_ray.refinement.config import RefinementConfig
    from ptycho_ray.training.device import resolve_device
    from ptycho_ray.training.settings_of_scans import fitted_to_scans

    raw = scan if isinstance(scan, RawData) else load(scan)
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
    executions = {name for name in setting_names(TrainingConfig) if name.startswith("execution.")}
    settings = ({} if device == "auto" else {"accelerator": device}) | settings
    typed = {f"execution.{name}" if f"execution.{name}" in executions else name: settings[name] for name in settings}
    resolved = resolve_config(TrainingConfig, config, typed=typed)
    chosen = fitted_to_scans(resolved, [raw])
    quicker = first_look(chosen.nepochs, len(raw) * raw.N**2, notebook=True)
    callbacks = [TrainingProgress(chosen.nepochs, first_look=quicker)] if progress else []
    _, _, results = workflow.run_cdi_example(
        raw, raw, chosen, do_stitching=True, execution=resolved.execution, callbacks=callbacks, keep_patches=False
    )
    files = [Path(raw.source)] if raw.source and Path(raw.source).is_file() else []
    origin = provenance(seed=chosen.seed, data_files=files)
    others = tuple(results.get("ensemble", ())[1:])
    bundle = Bundle(results["model_instance"], chosen, origin, results["history"], others)
    return Reconstruction(results["stitched"], raw, bundle, results["history"])


# Jupyter asks the class itself how to show a scan; pictures are above the data in the order of rooms.
RawData._repr_html_ = scan_html  # type: ignore[attr-defined]
