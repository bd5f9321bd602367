"""Many scans on a Ray cluster, each of which succeeds or fails alone.

Workers are actors, which keep model, program and GPU from scan to scan. What is done with a scan is a :class:`Treatment`.
A scan that is done leaves a mark (:mod:`ptycho_ray.cluster.done_marks`), written by its worker, so that the same call does only
what is missing, wherever the last one was interrupted. This process reads no scan.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import ray

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.done_marks import Mark, mark_of
from ptycho_ray.cluster.failures import TrainingLost, last_line, sigterm_as_interrupt
from ptycho_ray.cluster.preflight import check_nodes, free_of, room_for, workers_for
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import BAD_INPUT, FAILED, InputError, MissingFileError

Line = dict[str, Any]
Say = Callable[[str], None]

#: How often a scan is tried whose worker was lost: the scan may be what kills it.
TRIES = 2
#: So many workers in a row that do not come up end the batch.
MOST_STILLBORN = 3
#: Seconds between two looks at the workers, and between two at the size of the cluster.
LOOK_S, GROW_S = 1.0, 10.0


@dataclass(frozen=True)
class ScanToDo:
    """A scan and the folder of its result, both absolute."""

    path: Path
    folder: Path


class Treatment:
    """What a worker does with a scan; it is sent to every worker. An exception is the scan's error."""

    def begin(self, scan: ScanToDo, device: str, say: Say) -> Line | int:
        """The line of the scan, if one step does it; otherwise the number of parts in which it is done."""
        raise NotImplementedError

    def part(self, scan: ScanToDo, number: int, device: str, say: Say) -> None:
        """Do one of the parts, unless it is done."""
        raise NotImplementedError

    def finish(self, scan: ScanToDo, say: Say) -> Line:
        """Put the parts together."""
        raise NotImplementedError


class Observer(Protocol):
    """What is told of a batch as it goes on."""

    def on_line(self, line: str) -> None:
        """What happens before there are workers."""

    def on_start(self, workers: int, each: Mapping[str, float], free: Mapping[str, tuple[float, float]]) -> None:
        """Workers are being started, and what of the cluster was free before, of how much."""

    def on_worker(self, up: int, wanted: int) -> None:
        """One more worker is up."""

    def on_running(self, states: Mapping[str, str]) -> None:
        """How far the scans are that are being worked on, by name."""

    def on_scan(self, line: Line, done: int, left: int) -> None:
        """A scan is done, or has failed."""


@dataclass
class _Step:
    """The next thing to do with a scan: begin (None), a part by its number, or finish (-1)."""

    number: int
    what: int | None
    losses: int = 0


@dataclass
class _Batch:
    scans: Sequence[ScanToDo]
    lines: list[Line | None]
    todo: deque[_Step]
    observer: Observer
    parts_left: dict[int, int] = field(default_factory=dict)
    done: int = 0

    def end(self, number: int, line: Line) -> None:
        if self.lines[number] is not None:
            return  # another part of it has failed already
        line = {"scan": str(self.scans[number].path), **line}
        self.lines[number] = line
        self.done += 1
        self.observer.on_scan(line, self.done, len(self.scans) - self.done)

    def take(self) -> _Step | None:
        while self.todo:
            step = self.todo.popleft()
            if self.lines[step.number] is None:
                return step
        return None

    def outcome(self, step: _Step, found: Line | int | None) -> None:
        """Go on from what a step returned."""
        if isinstance(found, dict):
            self.end(step.number, found)
        elif step.what is None and found is not None:
            self.parts_left[step.number] = found
            self.todo.extendleft(_Step(step.number, part) for part in reversed(range(found)))
        else:
            self.parts_left[step.number] -= 1
            if not self.parts_left[step.number]:
                self.todo.appendleft(_Step(step.number, -1))

    def lost(self, step: _Step, error: BaseException) -> None:
        """The worker has died over a step."""
        step.losses += 1
        if step.losses < TRIES:
            self.todo.append(step)
        else:
            self.end(step.number, {"exit_code": FAILED, "error": f"its worker was lost: {last_line(error)}"})


def treat_each(
    scans: Sequence[ScanToDo],
    treatment: Treatment,
    settings: str,
    execution: ExecutionConfig,
    observer: Observer,
    files: Sequence[Path] = (),
) -> list[Line]:
    """Treat scans on a Ray cluster, ``execution.devices`` at a time ('auto': as many as there is room for). Nothing is started
    if all are done.

    Args:
        settings: what the result depends on beside the content of the scan, in a word; see
            :func:`ptycho_ray.cluster.done_marks.settings_print`.
        files: files and folders that every machine must see. (A scan that a machine does not see fails there.)

    Returns:
        a line for each: ``scan``, ``exit_code``, what the treatment returned or ``error``, and ``done`` ("now", "before").

    Raises:
        InputError: the cluster cannot be used, or a machine does not see ``files`` or has other packages.
        TrainingLost: no worker comes up.
        KeyboardInterrupt: after Ctrl-C; what is done stays done.
    """
    batch = _Batch(scans, [None] * len(scans), deque(), observer)
    for number, scan in enumerate(scans):
        mark = Mark.read(scan.folder)
        if mark is not None and mark.stands_for(scan.path, settings):
            batch.end(number, {**mark.line, "done": "before"})
        else:
            batch.todo.append(_Step(number, None))
    if batch.todo:
        with connected(execution, observer.on_line), sigterm_as_interrupt():
            check_nodes(files=[str(file) for file in files])
            pool = _Pool(treatment, settings, execution, observer)
            try:
                pool.work_off(batch)
            finally:
                pool.close()
    return [line for line in batch.lines if line is not None]


class _Pool:
    """The workers of a batch."""

    def __init__(self, treatment: Treatment, settings: str, execution: ExecutionConfig, observer: Observer) -> None:
        workers = workers_for(replace(execution, min_devices=1), observer.on_line)
        self.resources = workers.resources
        self.execution, self.observer = execution, observer
        self.start = lambda: (
            ray.remote(concurrency_groups={"look": 1})(_Worker)
            .options(num_cpus=self.resources["CPU"], num_gpus=self.resources.get("GPU", 0))
            .remote(treatment, settings, execution.cpus_per_device, workers.device)
        )
        self.running: dict[Any, tuple[Any, _Step | None]] = {}
        self.idle: list[Any] = []
        self.up, self.stillborn, self.grown = 0, 0, 0.0
        self.looks: dict[Any, str] = {}

    def wanted(self, left: int) -> int:
        """How many workers there should be now, if so many steps are left."""
        most = room_for(self.resources) if self.execution.devices == "auto" else self.execution.devices
        return min(max(1, most), left)

    def work_off(self, batch: _Batch) -> None:
        while batch.done < len(batch.scans):
            self._grow(len(batch.todo))
            while self.idle and (step := batch.take()) is not None:
                worker = self.idle.pop()
                scan = batch.scans[step.number]
                self.running[worker.step.remote(scan, step.what)] = (worker, step)
            ready, _ = ray.wait(list(self.running), timeout=LOOK_S)
            for task in ready:
                self._ended(task, batch)
            if not ready:
                self._look(batch)

    def _grow(self, todo: int) -> None:
        there = len(self.running) + len(self.idle)
        if there and time.monotonic() - self.grown < GROW_S:
            return
        self.grown = time.monotonic()
        wanted = self.wanted(todo + sum(step is not None for _, step in self.running.values()))
        if not there and not self.up and not self.stillborn:
            self.observer.on_start(wanted, self.resources, free_of(self.resources))
        for _ in range(wanted - there):
            worker = self.start()
            self.running[worker.ready.remote()] = (worker, None)

    def _ended(self, task: Any, batch: _Batch) -> None:
        worker, step = self.running.pop(task)
        try:
            found = ray.get(task)
        except ray.exceptions.RayError as error:
            self.grown = 0.0  # another one takes its place
            if step is not None:
                self.up -= 1
                batch.lost(step, error)
                return
            self.stillborn += 1
            if self.stillborn >= MOST_STILLBORN:
                raise TrainingLost(f"the workers do not come up; the last one: {last_line(error)}") from None
            return
        self.idle.append(worker)
        if step is None:
            self.up, self.stillborn = self.up + 1, 0
            self.observer.on_worker(self.up, self.up + sum(step is None for _, step in self.running.values()))
        else:
            batch.outcome(step, found)

    def _look(self, batch: _Batch) -> None:
        """Ask the workers how far they are; the answers are told at the next look, so nobody waits for one."""
        ready, _ = ray.wait(list(self.looks), num_returns=len(self.looks), timeout=0) if self.looks else ([], [])
        states = {}
        for answer in ready:
            name = self.looks.pop(answer)
            with suppress(ray.exceptions.RayError):
                states[name] = ray.get(answer)
        if states:
            self.observer.on_running(states)
        if not self.looks:
            self.looks = {
                worker.state.remote(): batch.scans[step.number].folder.name
                for worker, step in self.running.values()
                if step is not None
            }

    def close(self) -> None:
        for worker in [*self.idle, *(worker for worker, _ in self.running.values())]:
            ray.kill(worker)


class _Worker:
    """An actor."""

    def __init__(self, treatment: Treatment, settings: str, threads: int, device: str) -> None:
        self.treatment, self.settings, self.threads, self.device = treatment, settings, threads, device
        self.now = ""

    def ready(self) -> None:
        """Returns when the worker is up."""

    @ray.method(concurrency_group="look")
    def state(self) -> str:
        return self.now

    def step(self, scan: ScanToDo, what: int | None) -> Line | int | None:
        import torch

        torch.set_num_threads(self.threads)
        self.now = "reading"
        try:
            return self._step(scan, what)
        except (Exception, SystemExit) as error:  # whatever it is, the other scans are not to suffer
            text = " ".join(str(error).split()) or type(error).__name__
            code = BAD_INPUT if isinstance(error, InputError) else FAILED
            return {"exit_code": code, "error": text.removeprefix(f"{scan.path}: ")}

    def _step(self, scan: ScanToDo, what: int | None) -> Line | int | None:
        if what is None:
            if not scan.path.exists():
                raise MissingFileError(file=scan.path, found="nothing", expected="a scan")
            mark = Mark.read(scan.folder)
            if mark is not None and mark.same_content(scan.path, self.settings):
                mark_of(scan.path, self.settings, mark.line).write(scan.folder)  # touched or copied, not changed
                return {**mark.line, "done": "before"}
            # What lies here from now on is of this batch; and a file that grows while it is worked on is not done then.
            mark_of(scan.path, self.settings, {}).write(scan.folder)
            found: Line | int = self.treatment.begin(scan, self.device, self._say)
        elif what >= 0:
            self.treatment.part(scan, what, self.device, self._say)
            return None
        else:
            found = self.treatment.finish(scan, self._say)
        if isinstance(found, dict):
            begun = Mark.read(scan.folder)
            if begun is not None:
                begun.with_line(found).write(scan.folder)
            return {**found, "done": "now"}
        return found

    def _say(self, line: str) -> None:
        self.now = line
