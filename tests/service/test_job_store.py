"""The record of jobs and of tokens, without a service."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ptycho_ray.errors import InputError
from ptycho_ray.service.database import connect
from ptycho_ray.service.jobs import LEASE_S, JobStore
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.tokens import TokenStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    return JobStore(connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}"), clock)


def add(store: JobStore, **changes: Any) -> Any:
    asked = {"owner": "ann", "model": "m@1@x", "options": {}, "source": "/s", "source_name": "s", "deadline_s": 60.0}
    return store.create(**{**asked, "max_jobs": 5, "max_jobs_of_owner": 3, **changes})


def test_a_job_goes_its_way(store: JobStore) -> None:
    job, created = add(store)
    assert created
    assert job.state == "queued"
    attempt = store.claim(job.id, "w1")
    assert attempt == 1
    assert store.claim(job.id, "w2") is None
    assert store.report(job.id, 1, "reconstructing", 5, 20)
    assert store.get(job.id).progress == 0.25
    assert store.finish(job.id, 1, {"patterns": 20})
    done = store.get(job.id)
    assert (done.state, done.progress, done.facts) == ("done", 1.0, {"patterns": 20})
    assert not store.cancel(job.id)


def test_a_lease_that_runs_out_is_taken_over_and_the_late_result_ignored(store: JobStore, clock: Clock) -> None:
    job, _ = add(store)
    store.claim(job.id, "w1")
    assert store.abandoned() == []
    clock.now += LEASE_S - 1
    store.renew("w1")
    clock.now += LEASE_S - 1
    assert store.abandoned() == []
    clock.now += 2
    assert [found.id for found in store.abandoned()] == [job.id]
    assert store.claim(job.id, "w2") == 2
    assert not store.finish(job.id, 1, {"by": "w1"})
    assert not store.report(job.id, 1, "reading", 0, 0)
    assert store.finish(job.id, 2, {"by": "w2"})
    assert store.get(job.id).facts == {"by": "w2"}


def test_a_released_lease_is_free_at_once(store: JobStore) -> None:
    job, _ = add(store)
    store.claim(job.id, "w1")
    store.release("w1")
    assert store.claim(job.id, "w2") == 2


def test_a_cancelled_job_stays_cancelled(store: JobStore) -> None:
    job, _ = add(store)
    store.claim(job.id, "w1")
    assert store.cancel(job.id)
    assert not store.report(job.id, 1, "reading", 0, 0)
    assert not store.finish(job.id, 1, {})
    assert store.get(job.id).state == "cancelled"


def test_too_many_jobs(store: JobStore) -> None:
    for _ in range(3):
        add(store)
    with pytest.raises(Problem) as of_one:
        add(store)
    assert (of_one.value.status, of_one.value.headers()["Retry-After"]) == (429, "5")
    for _ in range(2):
        add(store, owner="bob")
    with pytest.raises(Problem) as of_all:
        add(store, owner="cis")
    assert of_all.value.status == 503


def test_the_bound_holds_against_many_at_once(store: JobStore) -> None:
    refused = []

    def one() -> None:
        try:
            add(store, max_jobs=5, max_jobs_of_owner=5)
        except Problem as problem:
            refused.append(problem.status)

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts()["queued"] == 5
    assert len(refused) == 7


def test_one_key_is_one_job(store: JobStore) -> None:
    first, _ = add(store, idempotency_key="k")
    again, created = add(store, idempotency_key="k")
    other, _ = add(store, owner="bob", idempotency_key="k")
    assert again.id == first.id
    assert not created
    assert other.id != first.id


def test_time_left(store: JobStore, clock: Clock) -> None:
    job, _ = add(store)
    store.claim(job.id, "w")
    store.report(job.id, 1, "reconstructing", 0, 100)
    clock.now += 10
    store.report(job.id, 1, "reconstructing", 20, 100)
    assert store.get(job.id).seconds_left(clock.now) == pytest.approx(40)


def test_old_jobs_are_known(store: JobStore, clock: Clock) -> None:
    job, _ = add(store)
    store.cancel(job.id)
    clock.now += 100
    assert store.old(200) == []
    assert store.old(50) == [job.id]
    store.delete(job.id)
    with pytest.raises(Problem, match="no such reconstruction"):
        store.get(job.id)


def test_the_record_survives_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    job, _ = add(JobStore(connect(url)))
    assert JobStore(connect(url)).get(job.id).id == job.id
    assert (tmp_path / "jobs.sqlite").stat().st_mode & 0o077 == 0


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> TokenStore:
    return TokenStore(connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}"), clock)


def test_a_token_is_found_by_its_text_alone(tokens: TokenStore, tmp_path: Path) -> None:
    token, text = tokens.add("beamline", "submit")
    assert tokens.find(text) == token
    assert tokens.find(text + "x") is None
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert text.encode() not in stored
    assert token.may("read")
    assert token.may("submit")
    assert not token.may("admin")


def test_a_token_expires_and_can_be_removed(tokens: TokenStore, clock: Clock) -> None:
    _, text = tokens.add("a", "read", days=1)
    clock.now += 86401
    assert tokens.find(text) is None
    other, other_text = tokens.add("b", "read")
    assert tokens.remove(other.id)
    assert not tokens.remove(other.id)
    assert tokens.find(other_text) is None


def test_rotation_leaves_the_old_token_for_a_while(tokens: TokenStore, clock: Clock) -> None:
    old, old_text = tokens.add("a", "admin")
    new, new_text = tokens.rotate(old.id, overlap_s=10)
    assert (new.name, new.role) == ("a", "admin")
    assert tokens.find(old_text) is not None
    clock.now += 11
    assert tokens.find(old_text) is None
    assert tokens.find(new_text) == new


@pytest.mark.parametrize(("name", "role"), [("", "read"), ("a\nb", "read"), ("x" * 101, "read"), ("a", "root")])
def test_names_and_roles_are_checked(tokens: TokenStore, name: str, role: str) -> None:
    with pytest.raises(InputError):
        tokens.add(name, role)
