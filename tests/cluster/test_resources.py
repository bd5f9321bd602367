"""What workers and trials reserve: a GPU only if they use it, and of it what they need."""

from __future__ import annotations

import pytest

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ray_fixtures import local_ray  # noqa: E402

from ptycho_ray.cluster import preflight, trial_room  # noqa: E402
from ptycho_ray.cluster.preflight import room_for, worker_resources  # noqa: E402

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


@pytest.mark.slow
def test_on_a_machine_whose_gpu_torch_cannot_use_nobody_reserves_it():
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    with local_ray(num_cpus=8, num_gpus=1):
        assert worker_resources(ExecutionConfig()) == ({"CPU": 1.0}, "cpu")
        assert room_for({"CPU": 1.0}) == 8
        assert worker_resources(ExecutionConfig(accelerator="cuda"))[0] == {"CPU": 1.0, "GPU": 1.0}
