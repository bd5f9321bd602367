"""What small files may take, and what all jobs of a replica may take together."""

from __future__ import annotations

import bz2
import gzip
import lzma
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import PATIENCE_S, wait_for

from ptycho_ray.data import inflation
from ptycho_ray.errors import InputError
from ptycho_ray.service import memory
from ptycho_ray.service.database import connect
from ptycho_ray.service.jobs import AUTOMATIC, JobStore
from ptycho_ray.service.memory import MemoryBudget, needed_bytes, unpacked
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.work import run_job

COMPRESSORS: list[Callable[[bytes], bytes]] = [bz2.compress, gzip.compress, lzma.compress]


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(data_dir=tmp_path, require_token=False)


def nothing() -> None:
    pass


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_a_compressed_scan_is_unpacked_on_disk(
    compress: Callable[[bytes], bytes], scan_file: Path, tmp_path: Path, settings: ServiceSettings
) -> None:
    packed = tmp_path / "scan"
    packed.write_bytes(compress(scan_file.read_bytes()))
    path = unpacked(packed, tmp_path, settings, nothing)
    assert path != packed
    assert path.read_bytes() == scan_file.read_bytes()
    assert unpacked(scan_file, tmp_path, settings, nothing) == scan_file


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_a_bomb_ends_early_and_leaves_nothing(
    compress: Callable[[bytes], bytes], tmp_path: Path, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflation, "SUSPICIOUS_BYTES", 2 * 2**20)
    bomb, pieces = tmp_path / "bomb", []
    bomb.write_bytes(compress(b"PK" + bytes(50 * 2**20)))
    with pytest.raises(InputError, match="decompression bomb"):
        unpacked(bomb, tmp_path, settings, lambda: pieces.append(1))
    assert len(pieces) < 20  # MiB, of 50
    assert [path.name for path in tmp_path.iterdir()] == ["bomb"]


def test_a_cancelled_job_stops_inflating(tmp_path: Path, settings: ServiceSettings, monkeypatch: Any) -> None:
    store = JobStore(connect(settings.database))
    packed, seen = tmp_path / "scan", []
    content = np.random.default_rng(0).bytes(2**20)
    packed.write_bytes(gzip.compress(b"PK" + content * 40, 1))
    job, _ = store.create(owner="a", model=AUTOMATIC, options={}, source=str(packed), source_name="scan.gz",
                          deadline_s=1e6, max_jobs=9, max_jobs_of_owner=9)  # fmt: skip
    pieces = memory.inflated(packed, 10**9)

    def watched(*_: Any) -> Any:
        for piece in pieces or ():
            seen.append(len(piece))
            if len(seen) == 3:
                store.cancel(job.id)
            yield piece

    monkeypatch.setattr(memory, "inflated", watched)
    monkeypatch.setattr("ptycho_ray.service.work.REPORT_INTERVAL_S", 0)
    attempt = store.claim(job.id, "here")
    assert attempt is not None
    run_job(job.id, attempt, None, store, settings)
    assert len(seen) == 3
    assert store.get(job.id).state == "cancelled"
    assert not (settings.job_folder(job.id) / "unpacked").exists()


def test_jobs_together_stay_within_the_budget_and_each_comes_to_its_turn() -> None:
    budget, inside, most, turns = MemoryBudget(100), [0], [0], []
    lock = threading.Lock()

    def work(wanted: int) -> None:
        with budget.reserved(wanted, nothing):
            with lock:
                inside[0] += min(wanted, 100)
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.01)
            with lock:
                inside[0] -= min(wanted, 100)
                turns.append(wanted)

    sizes = [60, 60, 30, 500, 30, 10, 100, 40] * 3
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(turns) == sorted(sizes)
    assert most[0] <= 100
    assert budget.free == 100


def test_who_waits_for_memory_can_give_up() -> None:
    budget, asked = MemoryBudget(100), threading.Event()

    def give_up() -> None:
        asked.set()
        raise InterruptedError

    with budget.reserved(100, nothing), pytest.raises(InterruptedError), budget.reserved(1, give_up):
        pass
    wait_for(asked.is_set, "the question")
    assert budget.free == 100


def test_memory_is_what_a_file_declares_and_not_what_it_takes_on_disk(
    tmp_path: Path, settings: ServiceSettings
) -> None:
    stack = np.zeros((100, 64, 64), np.float32)
    np.savez_compressed(tmp_path / "a.npz", patterns=stack)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("patterns", data=stack, compression="gzip")
        file["more"] = stack[:50]
    for name in ("a.npz", "a.h5"):
        assert needed_bytes(tmp_path / name, settings) == pytest.approx(memory.TIMES * stack.nbytes, rel=0.01)
        content = (tmp_path / name).read_bytes()
        for damaged in (content[: len(content) // 2], content[:200] + bytes(800) + content[1000:]):
            (tmp_path / name).write_bytes(damaged)
            assert needed_bytes(tmp_path / name, settings) > 0
