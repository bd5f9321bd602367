"""Checksums of what the program computes, to show that a change of its structure changes no number.

    python benchmarks/bit_for_bit.py store checksums.json      # before
    python benchmarks/bit_for_bit.py compare checksums.json    # after; exit code 1 and the names of what differs

Numbers depend on the processor and on the versions of the libraries, so the file is compared on the machine that made it
and is not kept in the repository. It takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

DEBUG = Path(__file__).parents[1] / "configs/train/debug.yaml"
#: One refinement of each method, and of each quantity that may move besides object and probe.
REFINEMENTS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("adam", "accelerated", "epie", "rpie", "lsqml", "dm")},
    "positions": {"position_start": 1, "probe_modes": 2},
    "correlation": {"position_start": 1, "position_method": "cross_correlation"},
    "affine": {"position_start": 1, "position_model": "affine", "method": "lsqml"},
    "variable probe": {"eigenmodes": 1, "eigenmode_start": 1, "intensity_start": 1, "background_start": 1},
    "slices": {"slices": 2, "slice_distance_px2": 3.0, "total_variation": 1e-3, "phase_smoothing": 0.1},
    "near field": {"near_field_px2": 30.0, "probe_guess": "mean_pattern"},
    "double": {"precision": "double", "method": "epie"},
}


def home(module: str, *candidates: str) -> Any:
    """The module under the first of its paths that exists; the script runs before and after a move."""
    for path in (module, *candidates):
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if not path.startswith(error.name or "-"):
                raise
    raise ModuleNotFoundError(module)


def digest(value: Any) -> str:
    """Of arrays their bytes, shape and type; of anything else its JSON."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    content = hashlib.sha256()
    if isinstance(value, np.ndarray):
        content.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    else:
        content.update(json.dumps(value, sort_keys=True, default=str).encode())
    return content.hexdigest()[:16]


def simulated_scan(folder: Path, n: int = 64, patterns: int = 80) -> Any:
    """A scan of lines with a disc probe, read from its file."""
    from ptycho_ray.data import load_data
    from ptycho_ray.simulation import make_object, make_probe, simulate_scan

    rng = np.random.default_rng(3)
    image = make_object("lines", (3 * n, 3 * n), rng)
    probe = make_probe("disc", n, rng, photons=1e5)
    scan = simulate_scan(image, probe, rng.uniform(n / 2 + 1, 5 * n / 2 - 1, (patterns, 2)), rng=rng)
    scan.to_file(folder / f"scan{n}.npz")
    return load_data(folder / f"scan{n}.npz")


def trainings(folder: Path) -> Iterator[tuple[str, Any]]:
    from ptycho_ray import workflow

    scan = simulated_scan(folder)
    cases = {
        "gridsize 1": {}, "gridsize 2": {"gridsize": 2}, "ensemble": {"ensemble_members": 2},
        "positions and probe": {"gridsize": 2, "positions_trainable": True, "probe_trainable": True},
        "retrieval": {"architecture": "unet", "probe_conditioning": "retrieval", "retrieval_steps": 3, "fno_width": 4},
        "supervised": {"model_type": "supervised"},
    }  # fmt: skip
    for name, settings in cases.items():
        config = workflow.setup_configuration({**settings, "output_dir": folder / name}, DEBUG)
        amplitude, phase, results = workflow.run_cdi_example(scan, scan, config, do_stitching=True)
        yield f"training, {name}: history", results["history"]
        yield f"training, {name}: amplitude", amplitude
        yield f"training, {name}: phase", phase
        yield f"training, {name}: predicted", results["pred_amp"]
        if name == "gridsize 1":
            workflow.save_inference_bundle(folder / "model", results, config, {})
            refined = replace(config, refinement_iterations=3)
            image = workflow.reassemble_cdi_image(scan, refined, model=results["model_instance"])[2]["stitched"]
            yield "training, gridsize 1: refined", image.image


def refinements(folder: Path) -> Iterator[tuple[str, Any]]:
    solver = home("ptycho_ray.refinement.solver", "ptycho_ray.reconstruction.refinement")
    scan = simulated_scan(folder, 32)
    for name, settings in REFINEMENTS.items():
        config = solver.RefinementConfig(**{"iterations": 6, "held_out_fraction": 0.1, "check_every": 2} | settings)
        found = solver.refine(scan, config)
        yield f"refinement, {name}: object", found.slices
        yield f"refinement, {name}: probe", found.probe
        yield f"refinement, {name}: positions", found.positions_px
        yield f"refinement, {name}: history", [asdict(p) | {"seconds": 0} for p in found.history]


def direct_trial(folder: Path) -> Iterator[tuple[str, Any]]:
    from ptycho_ray.config import ModelConfig, TrainingConfig
    from ptycho_ray.tuning.trial import direct_trial as run

    config = TrainingConfig(model=ModelConfig(N=32), nepochs=8, probe_defocus_m=0.0, position_scale=1.01)
    told: list[Any] = []
    figures = run(simulated_scan(folder, 32), config, ["frc", "ssim"], folder, lambda *known: told.append(known))
    told = [(epoch, {name: value for name, value in each.items() if name != "seconds"}) for epoch, each in told]
    yield "direct trial: figures", {name: value for name, value in figures.items() if name != "seconds"}
    yield "direct trial: reported", told
    with np.load(folder / "reconstruction.npz") as stored:
        for name in stored.files:
            yield f"direct trial: {name}", stored[name]


def pretraining(folder: Path) -> Iterator[tuple[str, Any]]:
    module = home("ptycho_ray.training.pretraining", "ptycho_ray.pretraining")
    config = module.PretrainingConfig(
        N=32, fno_width=4, retrieval_steps=5, nepochs=2, patterns_per_epoch=16, batch_size=8, scene_patterns=4,
        validation_scans=3, output_dir=folder / "pretraining",
    )  # fmt: skip
    results = module.pretrain(config)
    for name, value in results.model.network.state_dict().items():
        yield f"pretraining: {name}", value


def service_job(folder: Path) -> Iterator[tuple[str, Any]]:
    names = {"live": "live_image"}

    def part(name: str) -> Any:
        return home(f"ptycho_ray.service.{names.get(name, name)}", f"ptycho_ray.cluster.serve.{name}")

    scan = simulated_scan(folder)
    settings = part("settings").ServiceSettings(
        data_dir=folder / "service", models={"tiny": folder / "model"}, allowed_roots=(folder,), min_free_bytes=0
    )
    settings.data_dir.mkdir()
    loaded = part("engine").LoadedModel.load(folder / "model", settings)
    store = part("jobs").JobStore(part("database").connect(f"sqlite:///{folder / 'jobs.sqlite'}"))
    options = {"evaluate": True, "refinement_iterations": 3}
    job, _ = store.create(
        owner="ann", model="tiny@1@x", options=options, source=str(folder / "scan64.npz"), source_name="scan.npz",
        deadline_s=600.0, max_jobs=5, max_jobs_of_owner=5,
    )  # fmt: skip
    part("work").run_job(job.id, store.claim(job.id, "worker"), loaded, store, settings)
    facts = store.get(job.id).facts
    assert facts is not None, store.get(job.id).problem
    yield "service job: facts", {name: facts[name] for name in facts if name not in ("seconds", "model_sha256")}
    live = part("live").LiveImage(scan.N, 10**6)
    for rows in np.array_split(np.arange(len(scan)), 4):
        live.add(*part("live").predict(loaded, scan.patterns.intensity(rows), scan.positions_px[rows], "intensity"))
    yield "service, live image", live.picture()[0]


def computed(folder: Path) -> Iterator[tuple[str, Any]]:
    parts: list[Callable[[Path], Iterator[tuple[str, Any]]]] = [
        trainings, refinements, direct_trial, pretraining, service_job,
    ]  # fmt: skip
    for part in parts:
        yield from part(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("store", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: digest(value) for name, value in computed(Path(folder))}
    if options.action == "store":
        options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found)} checksums written to {options.file}")
        return 0
    stored = json.loads(options.file.read_text(encoding="utf-8"))
    differing = [name for name in {**stored, **found} if stored.get(name) != found.get(name)]
    print(f"{len(found)} checksums, {len(differing)} differ from {options.file}", *differing, sep="\n  ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
