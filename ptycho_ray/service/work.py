"""One attempt at one job, from the file of the scan to the file of the result. Runs in a replica of the models."""

from __future__ import annotations

import functools
import logging
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py

from ptycho_ray import __version__
from ptycho_ray.data import RawData
from ptycho_ray.data.hdf5 import open_hdf5
from ptycho_ray.errors import InputError
from ptycho_ray.evaluation import evaluate_reconstruction
from ptycho_ray.files import jsonable
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import Diverged, Progress
from ptycho_ray.service import without_model
from ptycho_ray.service.demos import write_demo
from ptycho_ray.service.engine import LoadedModel, Options, device_of, read_scan, reconstruct
from ptycho_ray.service.job_results import RESULT, Solution, write_result
from ptycho_ray.service.jobs import LOOK, Job, JobStore
from ptycho_ray.service.layers import write_preview
from ptycho_ray.service.look import look_at
from ptycho_ray.service.memory import MemoryBudget, needed_bytes, unpacked
from ptycho_ray.service.metering import Meter, Spent, bytes_in
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.settings import ServiceSettings

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.3
DEMO = "demo:"
FEWER_WORKERS = (
    "Ask for fewer workers or none, allow more time (deadline_s), or send it again when the cluster has less to do"
)


class JobSuperseded(Exception):
    """The job was cancelled, or another attempt has taken over."""


class Monitor:
    """Records the progress of an attempt, and tells it whether to continue."""

    def __init__(self, store: JobStore, job: Job, attempt: int, folder: Path, meter: Meter) -> None:
        self.store, self.job, self.attempt, self.folder, self.meter = store, job, attempt, folder, meter
        self.spent = Spent(job.cpu_s, job.gpu_s)  # by attempts that were lost
        self.size: dict[str, int] = {}
        self.last = 0.0
        self.pixel_size_m: float | None = None
        self.lines: list[str] = []
        #: Iteration and R-factor of the patterns held out, whenever they have judged the solution; iterations of a second round
        #: are counted on.
        self.judged: list[list[float]] = []
        self.first_round = 0

    def stage(self, name: str, done: int = 0, total: int = 0, facts: dict[str, Any] | None = None) -> None:
        """Start of a new stage."""
        self.last = time.monotonic()
        if self.store.clock() > self.job.deadline:
            raise Problem(408, "deadline", "The time allowed for this reconstruction is over.", {"field": "deadline_s"})
        if not self.store.report(self.job.id, self.attempt, name, done, total, facts, self.cost()):
            raise JobSuperseded

    def cost(self) -> dict[str, float]:
        """What the job has cost so far, lost attempts included."""
        return self.size | self.meter.so_far(self.spent)

    def counting(self) -> AbstractContextManager[None]:
        """Count the time inside the block."""
        return self.meter.counting(self.spent)

    def go_on(self, stage: str = "reading") -> None:
        """Called often: raises if the job is no longer wanted."""
        if time.monotonic() - self.last >= REPORT_INTERVAL_S:
            self.stage(stage)

    def on_batch(self, done: int, total: int) -> None:
        """``done`` of ``total`` groups are reconstructed."""
        if time.monotonic() - self.last >= REPORT_INTERVAL_S:
            self.stage("reconstructing", done, total)

    def on_refinement(self, progress: Progress) -> None:
        """An iteration of the refinement of a model's image is done."""
        self._on_iteration("refining", progress)

    def tell(self, line: str) -> None:
        """Without a model: something was found or decided."""
        self.lines.append(line)
        self.stage("deciding", facts={"plan": self.lines})

    def on_wait(self, line: str) -> None:
        """Without a model: the cluster has no room for the workers of the job."""
        if self.store.clock() > self.job.deadline:
            more = {"field": "deadline_s", "found": line, "expected": "room for all workers", "hint": FEWER_WORKERS}
            raise Problem(408, "deadline", "The time allowed was over before the workers had room.", more)
        self.stage("waiting for workers", facts={"plan": self.lines, "waiting": line})

    def on_solution(self, progress: Progress) -> None:
        """Without a model: an iteration of the solution is done."""
        self._on_iteration("solving", progress)

    def _on_iteration(self, stage: str, progress: Progress) -> None:
        if progress.r_factor is not None:
            if self.judged and self.first_round + progress.iteration <= self.judged[-1][0]:
                self.first_round = int(self.judged[-1][0])
            self.judged.append([self.first_round + progress.iteration, progress.r_factor])
            facts = {"plan": self.lines, "held_out": self.judged}
            self.stage(stage, progress.iteration, progress.iterations, facts)
        elif time.monotonic() - self.last >= REPORT_INTERVAL_S:
            self.stage(stage, progress.iteration, progress.iterations)

    def on_image(self, progress: Progress, image: StitchedObject) -> None:
        """Without a model: the image as it is now, for who watches."""
        write_preview(self.folder, image, self.pixel_size_m, progress.iteration)


def run_job(
    job_id: str,
    attempt: int,
    loaded: LoadedModel | None,
    store: JobStore,
    settings: ServiceSettings,
    memory: MemoryBudget | None = None,
    meter: Meter | None = None,
) -> None:
    """Carry out a job, without a model if none is ``loaded``, and record the outcome. Returns quietly if the job is no longer
    wanted. ``memory`` and ``meter`` are shared with other jobs of this process; without them it is the only one.

    What is wrong with the scan, the options or the disk is recorded as the job's problem; anything else is raised.
    """
    job = store.get(job_id)
    folder = settings.job_folder(job_id)
    monitor = Monitor(store, job, attempt, folder, meter or Meter(gpu=device_of(settings) != "cpu"))

    def cost() -> dict[str, float]:
        return monitor.cost() | {"bytes": bytes_in(folder)}

    try:
        facts = _prepared(job, monitor, loaded, settings, memory or MemoryBudget.of(settings))
    except JobSuperseded:
        log.info("job %s is no longer wanted", job_id)
        if store.get(job_id).attempt == attempt:
            (folder / RESULT).unlink(missing_ok=True)
    except (InputError, Problem, OSError, MemoryError) as error:
        names = {Path(job.source): job.source_name, folder / "unpacked": job.source_name, folder: "the scan"}
        problem = from_error(error, names)
        if problem.status == 500:
            log.exception("job %s failed", job_id)
        store.fail(job_id, attempt, problem, cost())
    except Diverged as error:
        more = {"field": "refinement_iterations", "found": job.options.get("refinement_iterations"), "expected": 0}
        if loaded is None:
            more = {"field": "refinement.object_step", "expected": "no setting of the solver, or a smaller step"}
        store.fail(job_id, attempt, Problem(422, "invalid", str(error), more), cost())
    else:
        store.finish(job_id, attempt, facts, cost())


def _prepared(
    job: Job, monitor: Monitor, loaded: LoadedModel | None, settings: ServiceSettings, memory: MemoryBudget
) -> dict[str, Any]:
    """The scan of a job on disk, as it is read, and memory for it; then the reconstruction."""
    monitor.stage("reading")
    folder = settings.job_folder(job.id)
    folder.mkdir(parents=True, exist_ok=True)
    if job.source.startswith(DEMO):
        source = write_demo(job.source.removeprefix(DEMO), loaded, folder / "demo.npz")
    else:
        source = Path(job.source)
    roots = [folder] if source.is_relative_to(folder) else [root.resolve() for root in settings.allowed_roots]
    check_links(source, roots)
    with monitor.counting():
        path = unpacked(source, folder, settings, monitor.go_on)
    try:
        waiting = memory.reserved(needed_bytes(path, settings), lambda: monitor.stage("waiting for memory"))
        with waiting, monitor.counting():
            if job.model == LOOK:
                monitor.stage("looking")
                options, go_on = Options(**job.options), functools.partial(monitor.go_on, "looking")
                return jsonable(look_at(path, options, settings, folder, job.source_name, go_on))
            return _reconstruct(job, path, monitor, loaded, settings)
    finally:
        if path != source:
            path.unlink(missing_ok=True)


def _reconstruct(
    job: Job, source: Path, monitor: Monitor, loaded: LoadedModel | None, settings: ServiceSettings
) -> dict[str, Any]:
    started = time.perf_counter()
    options = Options(**job.options)
    folder = settings.job_folder(job.id)
    monitor.stage("reading")
    scan = read_scan(source, settings, options)
    monitor.pixel_size_m = scan.pixel_size_m
    monitor.size = {"patterns": len(scan), "side": scan.N}
    read = time.perf_counter()
    if options.until == "plan":
        return jsonable({"patterns": len(scan), "N": scan.N, **without_model.plan(scan, options, monitor)})
    monitor.stage("reconstructing", 0, len(scan))
    provenance: dict[str, Any] = {
        "program": f"ptycho_ray {__version__}",
        "options": job.options,
        "scan": job.source_name,
    }
    notes = [note.replace(f"{source}: ", "") for note in scan.notes]
    facts: dict[str, Any] = {"N": scan.N, "has_truth": scan.object_truth is not None, "notes": notes}
    if loaded is None:
        solution, found = without_model.reconstruct(scan, options, settings, monitor, folder, provenance)
        stitched = solution.stitched
        facts |= found
    else:
        stitched = reconstruct(scan, loaded, options, monitor.on_batch, monitor.on_refinement)
        solution = Solution(stitched, scan)
        provenance |= {"model": job.model.rpartition("@")[0], "model_sha256": loaded.sha256}
        facts |= {"patterns": len(scan), "shape": list(stitched.image.shape), "pixel_size_m": scan.pixel_size_m}
        facts["model_sha256"] = loaded.sha256
    reconstructed = time.perf_counter()
    if options.evaluate and scan.object_truth is not None:
        monitor.stage("evaluating", len(scan), len(scan))
        facts["evaluation"] = _evaluation(stitched, scan)
    monitor.stage("writing", len(scan), len(scan))
    write_result(folder / RESULT, solution, provenance)
    if monitor.judged:
        facts["held_out"] = monitor.judged
    facts["seconds"] = facts.get("seconds", {}) | {
        "reading": round(read - started, 4),
        "reconstructing": round(reconstructed - read, 4),
        "all": round(time.perf_counter() - started, 4),
    }
    return jsonable(facts)


def _evaluation(stitched: StitchedObject, scan: RawData) -> dict[str, Any]:
    """Errors against the true object, or why there are none; this never withholds the image."""
    truth = scan.object_truth
    assert truth is not None
    try:
        found = evaluate_reconstruction(stitched.image, truth, origin_px=stitched.origin_px, region=stitched.covered())
    except InputError as error:
        return {"problem": str(error)}
    return found.to_dict(curves=True)


def check_links(path: Path, roots: list[Path]) -> None:
    """Refuse an HDF5 file that would read other files, except those under ``roots``.

    HDF5 has three ways: external links, virtual datasets and external raw storage (the last is refused by the reader).
    Without this an upload could expose any HDF5 file that the service can read.
    """
    if not h5py.is_hdf5(path):  # its signature need not stand at the start
        return
    others: list[str] = []
    with open_hdf5(path) as file:
        links: list[tuple[str, Any]] = []
        file.visititems_links(lambda name, link: links.append((name, link)))
        for name, link in links:
            if isinstance(link, h5py.ExternalLink):
                others.append(link.filename)
            elif isinstance(link, h5py.HardLink):
                item = file[name]
                if isinstance(item, h5py.Dataset) and item.is_virtual:
                    others += [source.file_name for source in item.virtual_sources() if source.file_name != "."]
    for name in others:
        target = (path.parent / name).resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise InputError(
                file=path,
                field="links",
                found=f"a link to another file ({name})",
                expected="all data inside the file that is sent",
                hint="Copy the linked data into one file, for instance with h5repack or 'ptycho-ray convert'",
            )
