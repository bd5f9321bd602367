"""A job without a model, with no service around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_ray import workflow
from ptycho_ray.data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.service import work
from ptycho_ray.service.database import connect
from ptycho_ray.service.jobs import AUTOMATIC, LOOK, JobStore
from ptycho_ray.service.layers import LOOK_FILE
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import Choices, Reconstruction, Reference
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.without_model import check_choices
from ptycho_ray.service.work import run_job


class Watched(JobStore):
    """Keeps what is reported, and cancels a job after so many reports."""

    cancel_after = 10**9

    def report(self, job_id: str, attempt: int, *args: Any) -> bool:
        self.reports = [*getattr(self, "reports", []), self.get(job_id).facts]
        if len(self.reports) > self.cancel_after:
            self.cancel(job_id)
        return super().report(job_id, attempt, *args)


@pytest.fixture
def settings(tmp_path: Path, scan_file: Path) -> ServiceSettings:
    return ServiceSettings(data_dir=tmp_path, allowed_roots=(scan_file.parent,))


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}"))


def run(store: Watched, settings: ServiceSettings, scan: Path, model: str = AUTOMATIC, **options: Any) -> Any:
    job, _ = store.create(
        owner="ann", model=model, options=options, source=str(scan), source_name="s", deadline_s=600.0, max_jobs=5,
        max_jobs_of_owner=5,
    )  # fmt: skip
    attempt = store.claim(job.id, "w")
    assert attempt is not None
    run_job(job.id, attempt, None, store, settings)
    return store.get(job.id)


@pytest.mark.slow
def test_what_is_decided_is_known_while_the_job_runs(
    store: Watched, settings: ServiceSettings, scan_file: Path
) -> None:
    job = run(store, settings, scan_file, refinement={"iterations": 5})
    document = Reconstruction.of(job)
    assert (document.state, document.model, document.links.keys() > {"report", "scan"}) == ("done", "automatic", True)
    assert document.facts is not None
    plans = [facts["plan"] for facts in store.reports if facts is not None]
    assert plans[0] == document.facts["plan"][:1]
    assert len(plans[-1]) > len(plans[0])
    assert (settings.job_folder(job.id) / "report.html").is_file()


def test_a_cancelled_job_stops_between_two_decisions(
    store: Watched, settings: ServiceSettings, scan_file: Path
) -> None:
    store.cancel_after = 3
    job = run(store, settings, scan_file)
    assert (job.state, len(store.reports)) == ("cancelled", 4)
    assert not (settings.job_folder(job.id) / "report.html").exists()


def test_a_look_that_is_cancelled_reads_no_further(
    store: Watched, settings: ServiceSettings, scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "REPORT_INTERVAL_S", 0.0)
    seen = run(store, settings, scan_file, LOOK)
    assert (seen.state, seen.facts["patterns"]) == ("done", 60)
    assert (settings.job_folder(seen.id) / LOOK_FILE).is_file()
    assert len(store.reports) > 5  # two, and one for each piece that was read
    store.reports, store.cancel_after = [], 4
    job = run(store, settings, scan_file, LOOK)
    assert (job.state, len(store.reports)) == ("cancelled", 5)
    assert not (settings.job_folder(job.id) / LOOK_FILE).exists()


def test_budget_and_uncertainty_reach_the_core(
    store: Watched, settings: ServiceSettings, scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def core(scan: Any, **wishes: Any) -> Any:
        asked.update(wishes)
        raise InputError("enough")

    monkeypatch.setattr(workflow, "reconstruct_scan", core)
    job = run(store, settings, scan_file, seed=3, budget_s=9.5, uncertainty=True, refinement={"probe_modes": 2})
    assert (asked["budget_s"], asked["seed"], asked["settings"]) == (9.5, 3, {"probe_modes": 2})
    assert asked["uncertainty"] is True
    assert "enough" in job.problem["detail"]


def test_how_the_file_is_read_reaches_the_core(
    store: Watched, settings: ServiceSettings, small_scan: RawData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.allowed_roots[0] / "marked.npz"
    small_scan.to_file(path)
    with np.load(path) as file:
        held = {name: file[name] for name in file} | {"bad": np.eye(small_scan.N)}
    np.savez(path, **held)
    asked: list[RawData] = []

    def core(scan: RawData, **wishes: Any) -> Any:
        asked.append(scan)
        raise InputError("enough")

    monkeypatch.setattr(workflow, "reconstruct_scan", core)
    chosen = Choices(**{"mask": "bad", "select": "0:9", "seed": 3, "refinement.iterations": 5})
    assert (chosen.reading, chosen.solver()) == ({"mask": "bad", "select": "0:9"}, {"iterations": 5})
    run(store, settings, path, seed=3, reading=chosen.reading)
    assert len(asked[0]) == 9
    assert asked[0].bad_pixels is not None


def test_settings_in_json_are_an_object_or_dotted_names() -> None:
    nested = Reference.model_validate_json('{"demo": "lines", "refinement": {"probe_modes": 2, "probe_start": null}}')
    dotted = Reference.model_validate_json(
        '{"demo": "lines", "refinement.probe_modes": 2, "refinement.probe_start": null}'
    )
    assert nested.solver() == dotted.solver() == {"probe_modes": 2, "probe_start": None}


def test_workers_are_refused_where_there_are_none_and_share_the_solution_where_there_are(
    store: Watched, settings: ServiceSettings, scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from ptycho_ray.cluster import reconstruct

    with pytest.raises(Problem, match="so many workers") as refused:
        check_choices(Choices(workers=4), settings.job_workers, with_model=False)
    assert refused.value.document()["hint"].startswith("The setting job_workers")
    with pytest.raises(Problem, match="no effect with a model"):
        check_choices(Choices(workers=4, model="lines"), 4, with_model=True)
    with pytest.raises(Problem, match="one process"):
        check_choices(Choices(workers=2, uncertainty=True), 4, with_model=False)
    asked = {}

    def on_cluster(scan: Any, execution: Any, **wishes: Any) -> Any:
        asked.update(wishes, devices=execution.devices)
        raise InputError("enough")

    monkeypatch.setattr(reconstruct, "reconstruct_on_cluster", on_cluster)
    job = run(store, settings, scan_file, seed=3, workers=4)
    assert (asked["devices"], asked["seed"]) == (4, 3)
    assert asked["checkpoint"].parent == settings.job_folder(job.id)


def test_a_job_that_waits_for_workers_says_so_and_ends_at_its_deadline(
    store: Watched, settings: ServiceSettings, scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from ptycho_ray.cluster import reconstruct

    waits, seen = "waiting for 4 CPUs; 1 of 2 CPU free", []

    def on_cluster(scan: Any, execution: Any, *, on_wait: Any, **wishes: Any) -> Any:
        on_wait(waits)
        (job,) = store.recent(None, 1)
        seen.append((job.stage, job.facts["waiting"]))
        store.clock = lambda: job.deadline + 1.0
        on_wait(waits)

    monkeypatch.setattr(reconstruct, "reconstruct_on_cluster", on_cluster)
    job = run(store, settings, scan_file, workers=4)
    assert seen == [("waiting for workers", waits)]
    assert job.problem["status"] == 408
    assert (job.problem["field"], job.problem["found"]) == ("deadline_s", waits)
    assert "fewer workers" in job.problem["hint"]


def test_iterations_of_a_second_round_are_counted_on(
    store: Watched, settings: ServiceSettings, scan_file: Path
) -> None:
    job = run(store, settings, scan_file, budget_s=0.1, refinement={"iterations": 10, "position_start": 1})
    counted = [row[0] for row in job.facts["held_out"]]
    assert len(counted) > 2  # ten iterations alone are judged twice
    assert counted == sorted(set(counted))
