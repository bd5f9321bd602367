"""Number format and determinism of a training."""

from __future__ import annotations

import pytest
import torch

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.training.device import arithmetic, network_dtype

CPU = torch.device("cpu")


def flags() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.allow_tf32, cudnn.benchmark


@pytest.mark.parametrize(("precision", "tf32"), [("32-true", False), ("tf32", True), ("bf16-mixed", False)])
def test_convolutions_round_to_tf32_only_where_that_is_asked_for(precision: str, tf32: bool) -> None:
    before = flags()
    with arithmetic(ExecutionConfig(precision=precision), CPU):
        assert flags() == (True, tf32, False)
        assert not torch.backends.cuda.matmul.allow_tf32
    with arithmetic(ExecutionConfig(precision=precision, deterministic=False), CPU):
        assert flags() == (False, tf32, True)
    assert flags() == before
    assert network_dtype(ExecutionConfig(precision="tf32"), CPU) is None


def test_an_operation_without_deterministic_algorithm_is_named() -> None:
    problem = "index_put_with_sort_kernel does not have a deterministic implementation, but you set ..."
    before = flags()
    with (
        pytest.raises(
            ConfigurationError, match=r"execution\.deterministic.*index_put_with_sort_kernel.*'warn' or False"
        ),
        arithmetic(ExecutionConfig(), CPU),
    ):
        raise RuntimeError(problem)
    assert flags() == before
    with pytest.raises(RuntimeError, match="something else"), arithmetic(ExecutionConfig(), CPU):
        raise RuntimeError("something else")
