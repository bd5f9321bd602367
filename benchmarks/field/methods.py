"""The methods: from a case to an image, each with what it uses besides patterns, positions and the probe of the file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.field.cases import Case, believing
from benchmarks.field.known_objects import Project, learnt_curve, real
from benchmarks.field.tied import tied_object
from ptycho_ray.bundle import Bundle, load_bundle
from ptycho_ray.config import PRETRAINED, ModelConfig, TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.groups import create_ptycho_data_container
from ptycho_ray.errors import InputError
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.retrieval import single_shot_retrieval
from ptycho_ray.models.transfer import physical_probe
from ptycho_ray.physics.translation import centre_crop
from ptycho_ray.reconstruction.inference import predict, reconstruct
from ptycho_ray.reconstruction.stitching import StitchAccumulator, StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.error_bars import error_bars
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.workflow import reassemble_cdi_image

Make = Callable[[Case, int], StitchedObject]
Knowledge = Callable[[Case, int], Project]


@dataclass(frozen=True)
class Method:
    """A row of the page.

    Attributes:
        make: (case, seed) -> image.
        uses: what it knows of the overlap and of the sample, in words.
        contracts: where it makes sense; everywhere if None.
        parameters: trained ones.
    """

    make: Make
    uses: str
    contracts: tuple[str, ...] | None = None
    parameters: int = 0


class PatternAlone(PhysicsInformedModel):
    """The single-pattern solver in the place of a network; ``project`` puts objects where they are known to lie."""

    project: Project | None = None

    def transmission_patches(self, photons: torch.Tensor) -> torch.Tensor:
        steps = self.config.retrieval_steps
        return single_shot_retrieval(photons, self.probe.detach(), self._level, steps, self.project)[0]


def constant(case: Case, seed: int) -> StitchedObject:
    """One everywhere: what a method has to beat."""
    image = np.ones(case.truth.shape, dtype=np.complex64)
    return StitchedObject(image, np.ones(case.truth.shape, dtype=np.float32), (0.0, 0.0))


def pattern_alone(
    case: Case, seed: int, knowledge: Knowledge | None = None, steps: int | None = None
) -> StitchedObject:
    """Every pattern by the known-probe solver of single patterns, stitched with one phase."""
    model, container = _alone(case, seed, knowledge, steps or case.steps)
    return reconstruct(model, container, 16)


def tiles_alone(case: Case, seed: int, knowledge: Knowledge | None = None, steps: int | None = None) -> StitchedObject:
    """The same patches by the reference's stitch: the central tile of each, side by side, phases as they come."""
    assert case.tile_px is not None
    model, container = _alone(case, seed, knowledge, steps or case.steps)
    accumulator = StitchAccumulator(container.raw.positions_px, case.tile_px)
    for rows, patches in predict(model, container, 16):
        accumulator.add(centre_crop(patches[:, 0], case.tile_px), container.raw.positions_px[rows])
    return accumulator.result()


def _alone(
    case: Case, seed: int, knowledge: Knowledge | None, steps: int
) -> tuple[PhysicsInformedModel, PtychoDataContainer]:
    settings = ModelConfig(
        N=case.scan.N, architecture="unet", fno_width=8, probe_conditioning="retrieval", retrieval_steps=steps
    )
    container = create_ptycho_data_container(case.scan, TrainingConfig(model=settings, n_groups=len(case.scan)))
    model = PatternAlone(settings, container.normalisation, physical_probe(container))
    model.project = None if knowledge is None else knowledge(case, seed)
    return model, container


def by_bundle(bundle: Bundle, case: Case, seed: int) -> StitchedObject:
    """A trained model, alone or an ensemble, applied as ``ptycho-ray reconstruct --model-path`` does."""
    config = replace(bundle.config, refinement_iterations=0)
    found: StitchedObject = reassemble_cdi_image(case.scan, config, model=bundle.models, keep_patches=False)[2][
        "stitched"
    ]
    return found


def shipped(case: Case, seed: int) -> StitchedObject:
    return by_bundle(load_bundle(PRETRAINED), case, seed)


def solver(case: Case, seed: int, *, start: Make | None = None, bars: bool = False, **settings: Any) -> StitchedObject:
    """The iterative solver over the whole scan, from a flat object or from the image of ``start``."""
    config = RefinementConfig(**{"probe_start": None, "held_out_fraction": 0.0, "seed": seed, **settings})
    refinement = Refinement(case.scan, config, start=None if start is None else start(case, seed))
    for _ in refinement:
        pass
    if bars:
        return error_bars(refinement, 1.0, np.random.default_rng((seed, 9))).of(refinement.stitched())
    return refinement.stitched()


def shipped_with_its_probe(case: Case, seed: int) -> StitchedObject:
    """The shipped network with the probe that the solver finds from the same scan."""
    refinement = Refinement(case.scan, RefinementConfig(held_out_fraction=0.0, seed=seed))
    for _ in refinement:
        pass
    return shipped(replace(case, scan=believing(case.scan, refinement.result().probe)), seed)


def of_folder(folder: Path, case: Case, seed: int) -> StitchedObject:
    """The image of another program: ``folder/CASE.npy``, complex [H, W] on the pixels of the truth."""
    path = folder / f"{case.name}.npy"
    if not path.is_file():
        names = ", ".join(sorted(file.name for file in folder.glob("*.npy"))) or "no .npy file"
        raise InputError(
            file=folder, field="images", found=names, expected=path.name, hint="'export' writes the scans of a contract"
        )
    image = np.load(path, allow_pickle=False)
    if image.shape != case.truth.shape or not np.iscomplexobj(image):
        raise InputError(
            file=path, field="image", found=f"{image.dtype} {image.shape}", expected=f"complex {case.truth.shape}"
        )
    return StitchedObject(image.astype(np.complex64), np.ones(image.shape, dtype=np.float32), (0.0, 0.0))


NEEDS_OVERLAP = "overlap"
SPARSE = {"total_variation": 0.1, "object_step": 0.02, "smooth_gain": 0.0}
CURVE = "phase as a function of amplitude, learnt from training patterns"
NATURAL = ("natural128_wheel",)
MODELS = ("lines64", "lines128", "natural128_wheel", "single_shot", "wrong_probe", "dose", "overlap", "unseen_probes")
METHODS: dict[str, Method] = {
    "constant": Method(constant, "nothing"),
    "pattern_alone": Method(pattern_alone, "each pattern by itself; phases and means from the overlap", MODELS),
    "tiles_alone": Method(tiles_alone, "each pattern by itself", ("lines128", "single_shot")),
    "tiles_and_curve": Method(
        functools.partial(tiles_alone, knowledge=learnt_curve, steps=40),
        "each pattern by itself; " + CURVE,
        ("lines128",),
    ),
    "pattern_and_curve": Method(
        functools.partial(pattern_alone, knowledge=learnt_curve, steps=40),
        "each pattern by itself; phases and means from the overlap; " + CURVE,
        ("lines128",),
    ),
    "tiles_and_real": Method(
        functools.partial(tiles_alone, knowledge=real), "each pattern by itself; the phase is zero", ("single_shot",)
    ),
    "shipped": Method(shipped, "each pattern by itself; phases and means from the overlap", (*MODELS, "star")),
    "solver": Method(solver, NEEDS_OVERLAP),
    "solver_and_probe": Method(
        functools.partial(solver, probe_start=0), "overlap; the probe is an unknown", ("wrong_probe", "star")
    ),
    "shipped_with_its_probe": Method(
        shipped_with_its_probe, "each pattern by itself; the probe from the overlap", ("wrong_probe",)
    ),
    "solver_sparse": Method(functools.partial(solver, **SPARSE), "overlap, total variation", ("dose", "overlap")),
    "shipped_and_10_iterations": Method(
        functools.partial(solver, start=shipped, iterations=10), NEEDS_OVERLAP, ("lines64", "lines128")
    ),
    "solver_10_iterations": Method(functools.partial(solver, iterations=10), NEEDS_OVERLAP, ("lines64", "lines128")),
    "solver_and_bars": Method(functools.partial(solver, bars=True), "overlap", ("digits",)),
    "tied": Method(tied_object, "each pattern by itself; the tie, the spectrum of the training images", NATURAL),
    "tied_without_spectrum": Method(
        functools.partial(tied_object, spectrum=False), "each pattern by itself; the tie", NATURAL
    ),
    "spectrum_without_tie": Method(
        functools.partial(tied_object, tie=False),
        "each pattern by itself; the spectrum of the training images",
        NATURAL,
    ),
}


def methods_of(contract: str) -> list[str]:
    """The methods that make sense for a contract."""
    return [name for name, method in METHODS.items() if method.contracts is None or contract in method.contracts]
