"""The record of jobs and of tokens, without a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from postgresql_server import Server, own_server
from sqlalchemy.exc import OperationalError

from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.service import database
from ptycho_ray.service.database import connect
from ptycho_ray.service.jobs import LEASE_S, JobStore
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.quotas import DAY_S, EVERYBODY, Quota, QuotaStore
from ptycho_ray.service.tokens import TokenStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as running:
        yield running


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new database."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    database: str = request.getfixturevalue("server").new_database()
    return database


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[JobStore]:
    made = JobStore(connect(url), clock)
    yield made
    made.engine.dispose()


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
    assert store.free(automatic=False) == []
    clock.now += LEASE_S - 1
    store.renew("w1")
    clock.now += LEASE_S - 1
    assert store.free(automatic=False) == []
    clock.now += 2
    assert [found.id for found in store.free(automatic=False)] == [job.id]
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
    assert store.get(job.id).expires == clock.now + 7 * DAY_S
    clock.now += 7 * DAY_S
    assert store.expired() == []
    clock.now += 1
    assert store.expired() == [job.id]
    store.delete(job.id)
    with pytest.raises(Problem, match="no such reconstruction"):
        store.get(job.id)


def test_the_record_survives_a_restart(url: str, tmp_path: Path) -> None:
    job, _ = add(JobStore(connect(url)))
    assert JobStore(connect(url)).get(job.id).id == job.id


def test_only_its_user_can_read_the_file_of_the_record(tmp_path: Path) -> None:
    connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    assert (tmp_path / "jobs.sqlite").stat().st_mode & 0o077 == 0


def test_the_oldest_go_first_where_space_is_short(store: JobStore, clock: Clock) -> None:
    ids = []
    for number in range(3):
        job, _ = add(store, size=100)
        ids.append(job.id)
        clock.now += 1
        if number < 2:
            store.cancel(job.id)
    assert store.expired(most_bytes=300) == []
    assert store.expired(most_bytes=200) == ids[:1]
    assert store.expired(most_bytes=1) == ids[:2]  # never what is waiting or running


def test_the_highest_priority_is_first_and_then_the_oldest(store: JobStore, clock: Clock) -> None:
    QuotaStore(store.engine).settle("live", Quota(priority=5))
    expected = []
    for owner in ("ann", "live", "bob", "live"):
        expected.append((owner, add(store, owner=owner)[0].id))
        clock.now += 1
    ordered = [expected[k][1] for k in (1, 3, 0, 2)]
    assert [job.id for job in store.free(automatic=False)] == ordered
    assert [job.id for job in store.free(automatic=False, limit=2)] == ordered[:2]
    assert store.free(automatic=True) == []


@pytest.mark.parametrize(
    ("quota", "waits"),
    [
        ({"jobs_at_once": 0}, 5),
        ({"jobs_a_day": 1}, DAY_S - 10),
        ({"bytes_kept": 70}, 3600),
        ({"compute_s_a_day": 9.0}, DAY_S - 10),
    ],
)
def test_a_quota_that_is_used_up(store: JobStore, clock: Clock, quota: dict[str, Any], waits: float) -> None:
    """And deleting a job gives back its bytes, but neither its place in the day nor what it has computed."""
    quotas = QuotaStore(store.engine, clock)
    job, _ = add(store, size=100, idempotency_key="k")
    assert store.claim(job.id, "w") == 1
    assert store.finish(job.id, 1, {}, {"cpu_s": 8.0, "gpu_s": 2.0, "bytes": 90})
    quotas.settle("ann", Quota(**quota))
    clock.now += 10
    with pytest.raises(Problem) as refused:
        add(store)
    (name,) = quota
    assert (refused.value.status, refused.value.more["quota"]) == (429, name)
    assert refused.value.retry_after_s == waits
    assert add(store, idempotency_key="k")[0].id == job.id  # what was accepted once is not refused
    assert add(store, owner="bob")[1]
    store.delete(job.id)
    if name == "bytes_kept":
        assert add(store)[1]
    else:
        with pytest.raises(Problem):
            add(store)
        clock.now += DAY_S
        assert name == "jobs_at_once" or add(store)[1]
        store.delete(job.id)  # and with its day all that is known of it goes
        assert quotas.usage("ann")["jobs_a_day"] <= 1


def test_everybody_has_the_quota_of_everybody_unless_there_is_another(store: JobStore) -> None:
    quotas = QuotaStore(store.engine)
    quotas.settle(EVERYBODY, Quota(jobs_at_once=1))
    quotas.settle("bob", Quota())
    add(store)
    with pytest.raises(Problem):
        add(store)
    assert [add(store, owner="bob")[1] for _ in range(2)] == [True, True]
    assert quotas.remove("bob")
    assert not quotas.remove("bob")
    assert quotas.of("bob") == Quota(jobs_at_once=1)
    for wrong in (Quota(jobs_a_day=-1), Quota(priority=1000), Quota(jobs_at_once=2**31), Quota(bytes_kept=2**63)):
        with pytest.raises(InputError):
            quotas.settle("bob", wrong)


OLD = """
CREATE TABLE jobs (id VARCHAR(32) NOT NULL PRIMARY KEY, owner VARCHAR(100) NOT NULL, idempotency_key VARCHAR(200),
  state VARCHAR(10) NOT NULL, created FLOAT NOT NULL, started FLOAT, finished FLOAT, deadline FLOAT NOT NULL,
  model VARCHAR(300) NOT NULL, options JSON NOT NULL, source TEXT NOT NULL, source_name VARCHAR(300) NOT NULL,
  stage VARCHAR(30) NOT NULL, done INTEGER NOT NULL, total INTEGER NOT NULL, attempt INTEGER NOT NULL,
  lease_owner VARCHAR(100), lease_until FLOAT NOT NULL, facts JSON, problem JSON, UNIQUE (owner, idempotency_key))
"""
OF_OLD = (
    "id, owner, state, created, finished, deadline, model, options, source, source_name, stage, done, total, attempt, "
    "lease_until"
)


def make_old_store(url: str) -> None:
    """The tables of the first version, with a job that has ended and one that waits."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD)
        for name, state, finished in (("a", "done", "5"), ("b", "queued", "NULL")):
            values = (
                f"'{name}', 'ann', '{state}', 1, {finished}, 1e12, 'm@1@x', '{{}}', '/s', 's', 'waiting', 0, 0, 0, 0"
            )
            connection.exec_driver_sql(f"INSERT INTO jobs ({OF_OLD}) VALUES ({values})")
    engine.dispose()


def test_a_store_of_an_earlier_version_becomes_one_of_this(url: str) -> None:
    make_old_store(url)
    for _ in range(2):  # the second time nothing is left to do
        store = JobStore(connect(url))
        assert store.get("a").expires == 5 + 7 * DAY_S
        assert [job.id for job in store.free(automatic=False)] == ["b"]
    fresh = {column["name"] for column in sa.inspect(store.engine).get_columns("jobs")}
    assert fresh == set(database.jobs.columns.keys())
    with store.engine.begin() as connection:
        connection.execute(database.version.update().values(version=99))
    with pytest.raises(ConfigurationError, match="later version"):
        connect(url)


def test_processes_that_start_at_once_make_the_tables_once(url: str) -> None:
    make_old_store(url)
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(connect, [url] * 4))
    assert [job.id for job in JobStore(engines[-1]).free(automatic=False)] == ["b"]


@pytest.mark.slow
def test_a_server_that_goes_away_is_waited_for(server: Server, clock: Clock) -> None:
    store = JobStore(connect(server.new_database()), clock, patience_s=300)
    job, _ = add(store)
    attempt = store.claim(job.id, "w")
    assert attempt == 1
    for how in ("fast", "immediate"):
        server.stop(how)
        with ThreadPoolExecutor(2) as pool:
            reported = pool.submit(store.report, job.id, attempt, "reconstructing", 5, 20)
            other = pool.submit(add, store)
            with pytest.raises(OperationalError):
                JobStore(store.engine, clock, patience_s=0).get(job.id)
            server.start()
            assert reported.result(300)
            assert other.result(300)[1]
    assert store.finish(job.id, attempt, {})
    assert store.counts() == {"queued": 2, "running": 0, "done": 1, "failed": 0, "cancelled": 0}


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
