"""What several test files share and that is no fixture; also imported by the processes that tests start."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

#: The folder of the project.
ROOT = Path(__file__).resolve().parents[1]
#: How long a test waits for what must happen, in seconds: it only ends tests that would hang. A busy machine is not wrong.
PATIENCE_S = 300.0
#: Tests with made-up examples try so many times their usual number of them; see the Makefile.
TIMES = 10 if os.environ.get("TEN_TIMES_THE_EXAMPLES") else 1


def make_scan(n_patterns: int = 60, seed: int = 3) -> Any:
    """A simulated scan of patterns of side 32: smooth lines, a small disc-shaped probe, 1e5 photons a pattern."""
    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe
    from ptycho_ray.simulation.simulate import simulate_scan

    rng = np.random.default_rng(seed)
    image = make_object("lines", (80, 80), rng)
    probe = make_probe("disc", 32, rng, photons=1e5)
    positions = rng.uniform(17, 63, (n_patterns, 2))
    return simulate_scan(image, probe, positions, rng=rng)


def make_tiny_config() -> Any:
    """Two epochs of the smallest network on patterns of side 32: seconds, not quality."""
    from ptycho_ray.config import ModelConfig, TrainingConfig

    model = ModelConfig(N=32, n_filters_scale=1)
    return TrainingConfig(model=model, n_groups=32, nepochs=2, batch_size=8, validation_fraction=0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S, every: float = 0.05) -> Any:
    """Poll until the condition holds, and return what it returned.

    Raises:
        AssertionError: it did not hold within ``seconds``; the message names ``what``.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"did not happen: {what}"
        time.sleep(every)
    return found


def as_another_account(attempt: Callable[[], Any]) -> str:
    """What comes of an attempt by the account nobody: the name of the exception, or the result as text. Needs root."""
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            said = str(attempt())
        except BaseException as error:
            said = type(error).__name__
        os.write(writable, said.encode())
        os._exit(0)
    os.close(writable)
    with open(readable, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


def in_processes(folder: Path, count: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run ``work(*arguments, parallel=DataParallel(rank, count))`` in processes joined by gloo; the result of the first.

    They are forked from a process that has imported the package and done nothing else. ``work`` must be importable by them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ptycho_ray.workflow", "torch._dynamo"])  # the second by the first step of training
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        ranks = [pool.submit(_as_rank, str(folder), rank, count, work, arguments) for rank in range(count)]
        results = [rank.result() for rank in ranks]
        return results[0]


def _as_rank(folder: str, rank: int, count: int, work: Callable[..., Any], arguments: Any) -> Any:
    import torch

    from ptycho_ray.training.parallel import DataParallel

    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE_S)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", patience, count, rank)
    try:
        return work(*arguments, parallel=DataParallel(rank, count))
    finally:
        torch.distributed.destroy_process_group()


def history_of_training(scans: Any, config: Any, execution: Any, parallel: Any) -> Any:
    """For :func:`in_processes`."""
    from ptycho_ray.workflow import train_cdi_model

    return train_cdi_model(scans, None, config, execution=execution, parallel=parallel)["history"]


@cache
def options_of(command: str) -> frozenset[str]:
    """The options of a ``ptycho-ray`` command, as its ``--help-all`` shows them."""
    from ptycho_ray.commands.cli import main

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([command, "--help-all"])
    if command == "simulate":
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([command, "--electrons", "--help-all"])
    return frozenset(re.findall(r"--[A-Za-z][\w.-]*", shown.getvalue()))
