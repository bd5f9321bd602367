"""One scan refined in tiles: memory of a worker, the image against that of one worker, the cost of the exchange.

    python benchmarks/bench_scale.py --patterns 4096
    python benchmarks/bench_scale.py --patterns 65536 --iterations 2 --workers 4 --seeds 0      # memory, a minute
    python benchmarks/bench_scale.py --patterns 65536 --folder LONG --write                     # a quarter of an hour

Writes a scan of so many patterns of 64 x 64 (HDF5, uint16) and refines it from a flat object with one worker, and in tiles
with 2 and 4, each worker a process of its own (gloo). One line of JSON for each: resident memory of the largest worker at
its peak, over what the program needs before it opens the scan, as a share of the patterns as float32; the error of the
image (complex, relative, after the exact ambiguities) against the truth and against one worker; the error at the borders of
tiles over that elsewhere; bytes that a worker sends in an iteration, and the share of its processor time that exchanging
takes. One worker with another seed shows how far apart two runs lie. The last lines are a projection to 64 and 1,024 GPUs
from these bytes, with the links of project_scaling.py.

With --folder everything is kept there: what is done is not done again by the same command, and a run that was interrupted
goes on from its checkpoint (its processor seconds are then those of the last part). --write puts the tables into
docs/distributed.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

N, STEP_PX, PHOTONS = 64, 6.0, 1e5
#: Sides of the region that is compared, around the middle, where the borders of tiles cross; and half the width of a border.
COMPARED_PX, BORDER_PX = 512, 8
PAGE = Path(__file__).resolve().parents[1] / "docs/distributed.md"
MARKS = "<!-- scale: begin -->\n", "<!-- scale: end -->\n"


def write_scan(path: Path, patterns: int) -> None:
    """A square raster, randomly displaced, over an object with structure of all sizes; the probe of the file is a guess."""
    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe
    from ptycho_ray.simulation.simulate import simulate_patterns

    rng = np.random.default_rng(0)
    across = round(patterns**0.5)
    height = int(across * STEP_PX) + N + 8
    image = make_object("grf", (height, height), rng, exponent=2.5)
    probe = make_probe("disc", N, rng, photons=PHOTONS, diameter_px=24, edge_px=2, defocus_m=5e-6)
    guess = make_probe("disc", N, rng, photons=PHOTONS, diameter_px=28, edge_px=3, defocus_m=5e-6)
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(across), indexing="ij"), axis=-1).reshape(-1, 2)
    positions = grid * STEP_PX + N // 2 + 4 + rng.uniform(-1.5, 1.5, grid.shape)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("diffraction", (len(positions), N, N), "uint16", chunks=(16, N, N))
        for start in range(0, len(positions), 1024):
            some = positions[start : start + 1024]
            data[start : start + 1024] = simulate_patterns(image, probe, some, rng=rng).clip(0, 65534)
        file["xcoords"], file["ycoords"] = positions[:, 1], positions[:, 0]
        file["probeGuess"] = guess.astype(np.complex64)
        file["truth"] = image


def peak_bytes() -> int:
    """Of this process since its program was started; what ``getrusage`` says begins with the parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def work(folder: Path, rank: int, size: int, settings: dict[str, Any], every: int) -> dict[str, float]:
    """In a process of its own: refine one tile, or the whole scan if there is one worker."""
    import torch

    from ptycho_ray.data import load_data
    from ptycho_ray.refinement import tiled_solver
    from ptycho_ray.refinement.solver import RefinementConfig, refine
    from ptycho_ray.refinement.tiles import Neighbours
    from ptycho_ray.training.parallel import DataParallel

    torch.set_num_threads(1)
    spent = {"exchange_s": 0.0, "sent": 0.0}
    own_swap = Neighbours._swap

    def timed(method: Any) -> Any:
        def call(*words: Any) -> Any:
            began = time.thread_time()
            made = method(*words)
            spent["exchange_s"] += time.thread_time() - began
            return made

        return call

    def swap(tiles: Any, image: Any) -> Any:
        received = own_swap(tiles, image)
        spent["sent"] += sum(part.numel() * part.element_size() for part in received)
        return received

    Neighbours._swap = swap  # type: ignore[method-assign]
    for name in ("weigh", "combine", "share_probe"):
        setattr(Neighbours, name, timed(getattr(Neighbours, name)))
    torch.fft.ifft2(torch.linalg.solve(torch.eye(64), torch.eye(64)) + 0j)  # loads what computes
    before = peak_bytes()
    scan = load_data(folder / "scan.h5")
    config = RefinementConfig(**settings)
    began, state = time.process_time(), folder / f"state_{size}_{config.seed}.safetensors"
    if size == 1:
        refine(scan, config, checkpoint=state).stitched.save(folder / f"one_{config.seed}.npz")
    else:
        place = DataParallel(rank, size)
        torch.distributed.init_process_group(
            "gloo", f"file://{folder}/meet_{size}", timedelta(hours=2), world_size=size, rank=rank
        )
        tiled_solver.refine_tile(scan, config, parallel=place, checkpoint=state, probe_every=every)
        torch.distributed.destroy_process_group()
    cpu = time.process_time() - began
    return {"program": before, "peak": peak_bytes(), "cpu_s": cpu, **spent}


def run_workers(folder: Path, size: int, settings: dict[str, Any], every: int) -> list[dict[str, float]]:
    (folder / f"meet_{size}").unlink(missing_ok=True)  # of a run that was interrupted
    words = [sys.executable, __file__, "--folder", str(folder), "--as-rank"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*words, json.dumps([rank, size, settings, every])], stdout=subprocess.PIPE, env=environment)
        for rank in range(size)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a worker failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def compared(image: Any, truth: NDArray[np.complex64], truth_origin: tuple[float, float]) -> NDArray[np.complex128]:
    """Difference relative to the root mean square of ``truth`` in the middle of the scan, complex [h, w]."""
    from refinement_metric import matched_to_truth

    margin = N // 2 + 16
    edges = []
    for side in truth.shape:
        reach = min(COMPARED_PX, side - 2 * margin) // 2
        edges += [side // 2 - reach, side // 2 + reach]
    origin = tuple(a - b for a, b in zip(image.origin_px, truth_origin, strict=True))
    made, target, _ = matched_to_truth(image.image, origin, truth, tuple(edges))  # type: ignore[arg-type]
    return (made - target) / np.sqrt(np.mean(np.abs(target) ** 2))


def border_of_tiles(folder: Path, size: int, shape: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """Which pixels of the compared region lie at the border of two tiles, bool ``shape``."""
    from scipy.ndimage import maximum_filter, minimum_filter
    from scipy.spatial import cKDTree

    from ptycho_ray.refinement.tiles import tiles_of

    with h5py.File(folder / "scan.h5") as file:
        positions = np.stack([file["ycoords"][:], file["xcoords"][:]], axis=-1)
    label = np.zeros(len(positions), dtype=int)
    for number, rows in enumerate(tiles_of(positions, size)):
        label[rows] = number
    first = [side // 2 - length // 2 for length in shape]
    pixels = np.stack(np.indices(shape), axis=-1) + first
    nearest = label[cKDTree(positions).query(pixels)[1]]
    width = 2 * BORDER_PX + 1
    return np.asarray(maximum_filter(nearest, width) != minimum_filter(nearest, width))


def rms(difference: NDArray[np.complex128]) -> float:
    return round(float(np.sqrt(np.mean(np.abs(difference) ** 2))), 5)


def projection(line: dict[str, Any], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time of an iteration on 64 and 1,024 GPUs that each hold as many patterns as a worker did here, nothing overlapped.

    Probes are averaged along a tree (bytes do not count), halos go to all neighbours through one link, and the cells of the
    smooth phase are summed over all by a ring.
    """
    from project_scaling import BETWEEN_BYTES_S, BETWEEN_LATENCY_S, INSIDE_LATENCY_S, NODE

    from ptycho_ray.refinement.tiles_smooth import CELLS_A_WINDOW

    size = line["workers"]
    each = line["patterns"] / size
    updates = each / 32
    alone = each / options.gpu_patterns_s
    cells = each * STEP_PX**2 / (N / CELLS_A_WINDOW) ** 2
    neighbours = {2: 4.0, 4: 2.0}.get(size, 1.0)  # a tile in the middle has all of them
    for devices in (64, 1024):
        tree = 2 * (np.log2(NODE) * INSIDE_LATENCY_S + np.log2(devices / NODE) * BETWEEN_LATENCY_S)
        cost = {
            "probe_ms": updates / options.probe_every * tree,
            "halo_ms": line["sent_mb_an_iteration"] * 1e6 * neighbours / BETWEEN_BYTES_S,
            "smooth_ms": 2 * 4 * cells * devices / BETWEEN_BYTES_S + tree,
        }
        found = {"devices": devices, "patterns": round(devices * each), "computing_ms": round(1e3 * alone, 2)}
        found |= {name: round(1e3 * seconds, 2) for name, seconds in cost.items()}
        yield found | {"efficiency": round(alone / (alone + sum(cost.values())), 2)}


def measured(folder: Path, size: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run so many workers; what they took, and how their image differs from the truth and from that of one worker."""
    from ptycho_ray.cluster.batch import read_partial
    from ptycho_ray.refinement.tile_files import complete_sets, read_tiles

    with h5py.File(folder / "scan.h5") as file:
        truth, patterns = file["truth"][:], file["diffraction"].shape[0]
    in_memory = 4 * patterns * N**2
    found = run_workers(folder, size, {"iterations": options.iterations, "seed": seed}, options.probe_every)
    most = max(found, key=lambda each: each["peak"] - each["program"])
    line: dict[str, Any] = {
        "workers": size,
        "seed": seed,
        "patterns": patterns,
        "iterations": options.iterations,
        "data_mb": round(in_memory / 1e6),
        "program_mb": round(most["program"] / 1e6),
        "over_program_mb": round((most["peak"] - most["program"]) / 1e6),
        "share_of_data": round((most["peak"] - most["program"]) / in_memory, 3),
        "cpu_s": round(sum(each["cpu_s"] for each in found), 1),
    }
    if size == 1:
        image = read_partial(folder / f"one_{seed}.npz")
    else:
        image = read_tiles(complete_sets(folder / f"state_{size}_{seed}.safetensors")[0]).stitched()
        spent = max(each["exchange_s"] for each in found) / max(each["cpu_s"] for each in found)
        sent = max(each["sent"] for each in found) / options.iterations
        line |= {"exchange_share": round(spent, 3), "sent_mb_an_iteration": round(sent / 1e6, 3)}
    wrong = compared(image, truth, (0.0, 0.0))
    line["error"] = rms(wrong)
    if size > 1:
        border = border_of_tiles(folder, size, wrong.shape, len(truth))  # type: ignore[arg-type]
        line["error_at_borders"] = round(rms(wrong[border]) / rms(wrong[~border]), 2)
    first = folder / "one_0.npz"
    if first.exists() and (size, seed) != (1, 0):
        one = read_partial(first)
        line["difference_from_one"] = rms(compared(image, one.image, one.origin_px))
    return line


def tables(lines: list[dict[str, Any]], projected: list[dict[str, Any]], command: str) -> str:
    """For docs/distributed.md."""
    first = lines[0]
    rows = [
        f"`{command}`: {first['patterns']:,} patterns ({first['data_mb']:,} MB as float32), {first['iterations']} iterations",
        "",
        "| workers | memory of one over the program, share of the patterns | error | difference from one worker | error at "
        "borders over elsewhere | exchange, share of processor time | processor s of all |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        name = f"{line['workers']}" + (f", seed {line['seed']}" if line["seed"] else "")
        figures = ("share_of_data", "error", "difference_from_one", "error_at_borders", "exchange_share", "cpu_s")
        rows.append(f"| {name} | {' | '.join(str(line.get(figure, '')) for figure in figures)} |")
    if projected:
        names = list(projected[0])
        rows += ["", f"| {' | '.join(name.replace('_', ', ') for name in names)} |", "|" + " --- |" * len(names)]
        rows += [f"| {' | '.join(f'{line[name]:,}' for name in names)} |" for line in projected]
    return "\n".join(rows) + "\n"


def main() -> None:
    from ptycho_ray.refinement.tiled_solver import PROBE_EVERY

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patterns", type=int, default=4096)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument(
        "--probe-every", type=int, default=PROBE_EVERY, help="updates between two averages of the probe"
    )
    parser.add_argument("--seeds", type=int, default=2, help="runs of one worker, each with another seed")
    parser.add_argument(
        "--gpu-patterns-s", type=float, default=5e5, help="patterns a second of a GPU, for the projection"
    )
    parser.add_argument("--folder", type=Path, default=None, help="keep everything there, and go on from what is there")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/distributed.md")
    parser.add_argument("--as-rank", type=json.loads, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank is not None:
        print(json.dumps(work(options.folder, *options.as_rank)))
        return
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "scan.h5").exists():
            write_scan(folder / "part.h5", options.patterns)
            (folder / "part.h5").rename(folder / "scan.h5")
        lines, projected = [], []
        for size in options.workers:
            for seed in range(options.seeds if size == 1 else 1):
                kept = folder / f"of_{size}_{seed}_{options.iterations}.json"
                if not kept.exists():
                    kept.write_text(json.dumps(measured(folder, size, seed, options)))
                lines.append(json.loads(kept.read_text()))
                print(json.dumps(lines[-1]), flush=True)
                if size > 1:
                    projected = list(projection(lines[-1], options))
                    print(*(json.dumps({"projection": each}) for each in projected), sep="\n", flush=True)
    if options.write:
        words = " ".join(sys.argv[1:]).replace(f"--folder {options.folder}", "--folder LONG")
        command = f"python benchmarks/bench_scale.py {words}"
        before, _, rest = PAGE.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        PAGE.write_text(before + MARKS[0] + tables(lines, projected, command) + MARKS[1] + after)


if __name__ == "__main__":
    main()
