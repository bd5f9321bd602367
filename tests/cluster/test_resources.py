"""What workers and trials reserve: a GPU only if they use it, and of it what they need."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import contents
from ptycho_ray.errors import ConfigurationError

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ray_fixtures import local_ray  # noqa: E402

from ptycho_ray.cluster import object_store, preflight, trial_room  # noqa: E402
from ptycho_ray.cluster.preflight import worker_resources  # noqa: E402

GIB = 2**30


@pytest.fixture
def one_gpu_eight_cores(monkeypatch):
    """``one_gpu_eight_cores(bytes)``: a machine whose GPU has so much memory; None for one that torch cannot use."""
    have = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "a", "Alive": True, "Resources": have}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)

    def of(memory):
        for module in (preflight, trial_room):
            monkeypatch.setattr(module, "gpu_memory_bytes", lambda: memory)

    return of


def room(kind, patterns=1000, **execution):
    scan = type("Scan", (), {"N": 256, "__len__": lambda self: patterns})()
    return trial_room.trial_room(ExecutionConfig(**execution), kind, scan)


def test_a_direct_sweep_uses_all_cores_whether_or_not_the_gpu_can_be_used(one_gpu_eight_cores):
    one_gpu_eight_cores(None)
    assert room("direct") == ({"CPU": 1.0}, "cpu", 8)
    assert room("direct", cpus_per_device=2) == ({"CPU": 2.0}, "cpu", 4)
    one_gpu_eight_cores(80 * GIB)
    assert room("direct") == ({"CPU": 1.0, "GPU": 0.125}, "cuda", 8)
    assert room("direct", accelerator="cpu") == ({"CPU": 1.0}, "cpu", 8)


def test_what_the_memory_of_the_gpu_does_not_hold_is_not_placed_on_it(one_gpu_eight_cores):
    one_gpu_eight_cores(24 * GIB)
    assert room("direct", patterns=30_000) == ({"CPU": 1.0, "GPU": 1.0}, "cuda", 1)
    each, _, at_once = room("refine", patterns=5_000)  # 1 GiB and three times 1.22
    assert at_once == 5
    assert each["GPU"] == pytest.approx(1 / 5)


def test_networks_have_a_gpu_each_unless_a_share_is_given(one_gpu_eight_cores):
    one_gpu_eight_cores(80 * GIB)
    assert room("train")[0] == {"CPU": 1.0, "GPU": 1.0}
    assert room("train", gpu_share=0.25) == ({"CPU": 1.0, "GPU": 0.25}, "cuda", 4)
    assert room("direct", gpu_share=0.5) == ({"CPU": 1.0, "GPU": 0.5}, "cuda", 2)
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES=1"):
        worker_resources(ExecutionConfig(accelerator="cuda:1"))


def test_a_device_that_no_worker_could_use_is_refused_before_any_is_started(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="does not have this device.*'mps'"):
        worker_resources(ExecutionConfig(accelerator="mps"))


@pytest.mark.slow
def test_on_a_machine_whose_gpu_torch_cannot_use_nobody_reserves_it():
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    with local_ray(num_cpus=8, num_gpus=1):
        assert worker_resources(ExecutionConfig()) == ({"CPU": 1.0}, "cpu")
        assert room("direct") == ({"CPU": 1.0}, "cpu", 8)
        assert worker_resources(ExecutionConfig(accelerator="cuda"))[0] == {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture
def machines(monkeypatch):
    """``machines(driver_store, *worker_stores, free=bytes)``: this one computes nothing."""

    def of(driver, *stores, free):
        nodes = [{"NodeID": "0", "Alive": True, "Resources": {"object_store_memory": driver}}]
        nodes += [
            {"NodeID": f"{k + 1}", "Alive": True, "Resources": {"CPU": 4.0, "object_store_memory": store}}
            for k, store in enumerate(stores)
        ]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "0"))
        monkeypatch.setattr(object_store, "free_memory_bytes", lambda: free)

    return of


def test_a_scan_must_fit_into_the_smallest_store_and_the_memory_of_the_driver(machines):
    machines(10 * GIB, 20 * GIB, 5 * GIB, free=100 * GIB)
    assert object_store.room_for_scans() == pytest.approx(0.4 * 5 * GIB)
    machines(2 * GIB, 20 * GIB, 5 * GIB, free=100 * GIB)
    assert object_store.room_for_scans() == pytest.approx(0.4 * 2 * GIB)
    machines(10 * GIB, 20 * GIB, free=GIB)
    assert object_store.room_for_scans() == pytest.approx(0.4 * GIB)


def test_several_scans_share_the_room_and_those_beyond_it_stay_on_disk(machines):
    machines(100.0, free=GIB)  # 40 bytes for scans

    class Patterns(SimpleNamespace):
        def loaded(self):
            return Patterns(nbytes=self.nbytes, in_memory=True)

    scans = [SimpleNamespace(patterns=Patterns(nbytes=size, in_memory=False)) for size in (30, 20, 10)]
    found = object_store.in_memory_if_they_fit(scans)
    assert [scan.patterns.in_memory for scan in found] == [True, False, True]
    assert not any(scan.patterns.in_memory for scan in scans)


def test_a_container_with_less_memory_than_its_machine_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(contents, "CGROUP", tmp_path)
    whole = contents.free_memory_bytes()
    (tmp_path / "memory.current").write_text("1000")
    (tmp_path / "memory.max").write_text("max")
    assert contents.free_memory_bytes() > whole / 2
    (tmp_path / "memory.max").write_text("5000")
    assert contents.free_memory_bytes() == 4000
