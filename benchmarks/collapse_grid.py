"""Does any network end flat? Small runs over network, side, gridsize, loss, dose and seed; a table of the worst seeds.

    python benchmarks/collapse_grid.py run [NETWORK ...]   # appends a line of JSON a cell; what is there is not run again
    python benchmarks/collapse_grid.py longer              # cells that ended flat, with four times the epochs
    python benchmarks/collapse_grid.py table               # prints the table of docs/networks.md

Every cell is a training from nothing on a few simulated patterns of a soft object of strong phase, with a narrow network. It
tells whether a network leaves the flat object that it starts with, not how well it generalises. "Flat" is what the
detector of the training says at its end (``ptycho_ray.training.health.diagnose``). Contrast and spread are parts of
those of the true patches. The lines are in outputs/collapse_grid.jsonl.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import PtychoDataContainer, RawData
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.training.health import contrast_and_spread, diagnose, rows_to_look_at
from ptycho_ray.workflow import train_cdi_model

FILE = Path(__file__).resolve().parents[1] / "outputs/collapse_grid.jsonl"
SEEDS, DOSES = range(5), [1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
SIDES, GRIDSIZES = (64, 128), (1, 2)
LOSSES = {"Poisson": {"nll_weight": 1.0, "mae_weight": 0.0}, "MAE": {"nll_weight": 0.0, "mae_weight": 1.0}}
NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"n_filters_scale": 1},
    "ffno": {"fno_width": 8},
    "hybrid_resnet": {"fno_width": 8},
}
#: Patterns and patterns in a step by side: six steps an epoch for both.
PATTERNS, BATCH, EPOCHS = {64: 24, 128: 12}, {64: 4, 128: 2}, 10
EXECUTION = ExecutionConfig(learning_rate=1e-3, enable_checkpointing=False)
KEYS = ("network", "N", "gridsize", "loss", "dose", "seed")
Cell = dict[str, Any]


def cells() -> Iterator[Cell]:
    """All cells: every combination with the first seed, then the other seeds of the smaller side, then of the larger."""
    for seed, n in sorted(itertools.product(SEEDS, SIDES), key=lambda of: (of[0] > SEEDS[0], of[1])):
        for dose, network, gridsize, loss in itertools.product(DOSES, NETWORKS, GRIDSIZES, LOSSES):
            yield dict(zip(KEYS, (network, n, gridsize, loss, dose, seed), strict=True))


def scan_of(n: int, photons: float, seed: int) -> RawData:
    """A few overlapping patterns."""
    rng = np.random.default_rng(seed)
    soft = {"smoothing_px": n / 32, "amplitude_range": (0.4, 1.0), "phase_range": (-3.0, 3.0)}
    image = make_object("grf", (2 * n, 2 * n), rng, **soft)
    probe = make_probe("default", n, rng, photons=photons)
    positions = rng.uniform(0.75 * n, 1.25 * n, (PATTERNS[n], 2))
    return simulate_scan(image, probe, positions, rng=rng)


def of_truth(container: PtychoDataContainer, model: PhysicsInformedModel) -> tuple[float, float]:
    """Contrast and spread of the true patches that the detector looks at."""
    truth = container.raw.truth_patches(container.nn_indices[rows_to_look_at(len(container))])
    weight = model.overlap_weight().cpu().double()
    return contrast_and_spread(torch.from_numpy(truth).to(torch.complex128), weight / weight.sum())


def run_cell(cell: Cell, epochs: int) -> Cell:
    """Train one cell and say how it ended."""
    started = time.process_time()
    model = ModelConfig(
        N=cell["N"], gridsize=cell["gridsize"], architecture=cell["network"], **NETWORKS[cell["network"]]
    )
    config = TrainingConfig(
        model=model, nepochs=epochs, batch_size=BATCH[cell["N"]], seed=cell["seed"], validation_fraction=0.0, neighbor_count=6,
        scheduler="WarmupCosine", gradient_clip_val=1.0, **LOSSES[cell["loss"]],
    )  # fmt: skip
    results = train_cdi_model(scan_of(cell["N"], cell["dose"], cell["seed"]), None, config, execution=EXECUTION)
    history = results["history"]
    contrast, spread = of_truth(results["train_container"], results["model_instance"])
    return {
        **cell,
        "epochs": epochs,
        "contrast": round(history["amplitude_contrast"][-1] / contrast, 4),
        "spread": round(history["phase_spread_rad"][-1] / spread, 4),
        "explained": round(history["explained_share"][-1], 4),
        "saturated": round(history["saturated_share"][-1], 4),
        "r_factor": round(history["r_factor"][-1], 4),
        "complaint": diagnose(history, epochs),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def read(path: Path) -> list[Cell]:
    """The finished cells; a last line that was cut short is none."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def key(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell[name] for name in KEYS)


def run(path: Path, wanted: list[Cell], epochs: int) -> None:
    """Run what is not in the file yet, and append each cell as it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {(*key(cell), cell["epochs"]) for cell in read(path)}
    left = [cell for cell in wanted if (*key(cell), epochs) not in done]
    for number, cell in enumerate(left):
        found = run_cell(cell, epochs)
        with path.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{number + 1}/{len(left)}", json.dumps(found), flush=True)


def table(found: list[Cell]) -> str:
    """One row a network, side, gridsize and loss, one column a dose, the worst of the seeds in each."""
    last = {key(cell): cell for cell in sorted(found, key=lambda cell: cell["epochs"])}
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in last.values():
        groups[key(cell)[:-1]].append(cell)
    lines = [
        "| network | N | gridsize | loss | " + " | ".join(f"{dose:.0e}".replace("e+0", "e") for dose in DOSES) + " |",
        "| --- " * (4 + len(DOSES)) + "|",
    ]
    for network, n, gridsize, loss in itertools.product(NETWORKS, SIDES, GRIDSIZES, LOSSES):
        texts = []
        for dose in DOSES:
            seeds = groups.get((network, n, gridsize, loss, dose), [])
            if not seeds:
                texts.append("")
                continue
            worst = [min(cell[figure] for cell in seeds) for figure in ("contrast", "spread", "explained")]
            flat = sum(cell["complaint"] is not None for cell in seeds)
            longer = sum(cell["epochs"] > EPOCHS for cell in seeds)
            marks = f" **{flat} flat**" * bool(flat) + " L" * bool(longer)
            texts.append(" / ".join(f"{value:.2f}" for value in worst) + marks)
        lines.append(f"| {network} | {n} | {gridsize} | {loss} | {' | '.join(texts)} |")
    flat = sum(cell["complaint"] is not None for cell in last.values())
    seconds = sum(cell["cpu_seconds"] for cell in found)
    lines.append(f"\n{len(last)} cells, {flat} flat, {seconds / 60:.0f} CPU minutes.")
    return "\n".join(lines)


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ("run", "longer", "table"):
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    networks = sys.argv[2:] or list(NETWORKS)
    if sys.argv[1] == "run":
        run(FILE, [cell for cell in cells() if cell["network"] in networks], EPOCHS)
    elif sys.argv[1] == "longer":
        flat = [cell for cell in read(FILE) if cell["epochs"] == EPOCHS and cell["complaint"]]
        run(FILE, [{name: cell[name] for name in KEYS} for cell in flat], 4 * EPOCHS)
    else:
        print(table(read(FILE)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
