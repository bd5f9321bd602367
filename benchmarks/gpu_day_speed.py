"""How fast training, inference and refinement are on a device; the second part of ``gpu_day.py``.

Every figure is that of the loops that the program runs (reading, batches and checks included) on simulated scans in memory.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gpu_day_checks import made_scan, trainer_of
from torch.profiler import ProfilerActivity, profile

from ptycho_ray.config.recommended import NETWORK
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.reconstruction.inference import fetched, predict, reconstruct
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.training.device import arithmetic

RECOMMENDED = {name.removeprefix("model."): value for name, value in NETWORK.items()}
#: Kernels that a profile names, and the batches of a network that it covers.
NAMED, STEPS_IN_PROFILE = 10, 8
#: Ways to compile the network that the program does not have: whether they would pay is a question to the device.
COMPILED: dict[str, dict[str, Any]] = {"compiled": {}, "compiled with CUDA graphs": {"mode": "reduce-overhead"}}


class Scans:
    """Simulated scans, each made once.

    Args:
        patterns: how many, by the side of a pattern.
    """

    def __init__(self, patterns: dict[int, int]) -> None:
        self.patterns, self._made = patterns, {}

    def of(self, n: int, share: float = 1.0) -> RawData:
        """The scan of patterns of side ``n``, or the first patterns of it."""
        if n not in self._made:
            self._made[n] = made_scan(n, self.patterns[n])
        scan, wanted = self._made[n], max(32, math.ceil(self.patterns[n] * share))
        return scan if wanted >= len(scan) else scan.select(np.arange(wanted))


class Bench:
    """Measures on one device.

    Args:
        least: seconds that a measurement takes at least.

    Attributes:
        bandwidth: bytes a second of a copy within the device, read and written ones counted; 0 if not measured.
    """

    def __init__(self, device: torch.device, least: float) -> None:
        self.device, self.least, self.bandwidth = device, least, 0.0

    def copy(self, size: int) -> float:
        """Measure the bandwidth by ``size`` bytes."""
        source = torch.ones(size // 4, device=self.device)
        target = torch.empty_like(source)
        self.bandwidth = 2 * size / self.seconds(lambda: target.copy_(source))
        return self.bandwidth

    def seconds(self, work: Callable[[], Any], rounds: int = 2) -> float:
        """Seconds of ``work`` to its end on the device: the least of some rounds after one that warms up."""
        work()
        self.wait()
        found: list[float] = []
        began = time.perf_counter()
        while len(found) < rounds or time.perf_counter() - began < self.least:
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def peak(self, found: dict[str, Any]) -> Iterator[None]:
        """Most memory of the device that the block took, as ``peak_bytes`` of ``found``; nothing on a processor."""
        gc.collect()
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        found["peak_bytes"] = torch.cuda.max_memory_allocated(self.device)

    def compiled(self, network: torch.nn.Module, how: dict[str, Any] | None) -> None:
        """Let torch compile a network, a graph for each size of a batch. On a processor it is only traced, for which no
        compiler is needed."""
        if how is not None:
            network.compile(dynamic=False, **(how if self.device.type == "cuda" else {"backend": "aot_eager"}))

    def training(
        self, scan: RawData, batch_size: int, precision: str, compiled: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Epochs of the recommended network."""
        found: dict[str, Any] = {}
        with self.peak(found):
            trainer = trainer_of(
                scan, self.device, RECOMMENDED, batch_size=batch_size, precision=precision, deterministic=False
            )
            self.compiled(trainer.source.models[0].network, compiled)

            def epoch() -> None:
                trainer.progress.batch, trainer.progress.sums = 0, {}
                with arithmetic(trainer.execution, self.device):
                    trainer._train_epoch()

            found["patterns_per_s"] = len(scan) / self.seconds(epoch)
        few = trainer.source.batches(0)[:STEPS_IN_PROFILE]
        trainer.source.batches = lambda epoch: few  # type: ignore[method-assign]
        return found | {"profile": self.profiled(epoch)}

    def inference(self, scan: RawData, batch_size: int, compiled: dict[str, Any] | None = None) -> dict[str, Any]:
        """Patches of the recommended network on the host, and the whole way to a stitched image."""
        trained = trainer_of(scan, self.device, RECOMMENDED).source.scans[0]  # type: ignore[attr-defined]
        model, groups = trained.model, trained.container
        self.compiled(model.network, compiled)
        found: dict[str, Any] = {}

        def network(some: Any = groups) -> None:
            for _ in fetched(predict(model, some, batch_size)):
                pass

        with self.peak(found):
            found["patterns_per_s"] = len(scan) / self.seconds(network)
            found["with_image_per_s"] = len(scan) / self.seconds(lambda: reconstruct(model, groups, batch_size), 1)
        few = groups.subset(range(min(len(groups), STEPS_IN_PROFILE * batch_size)))
        return found | {"profile": self.profiled(lambda: network(few))}

    def refinement(self, scan: RawData, **settings: Any) -> dict[str, Any]:
        """Iterations of the solver; whether they converge is not looked at."""
        found: dict[str, Any] = {}
        with self.peak(found):
            iteration, made = self._iteration(scan, settings)
            seconds = self.seconds(iteration)
        found |= {"patterns_per_s": len(scan) / seconds, "batch_size": made.run.batch_size}
        if self.bandwidth:
            modes, slices = made.run.state.probe_spectrum.shape[0], made.run.state.object.shape[0]
            transforms = 4 + 4 * (
                slices - 1
            )  # forward and adjoint: to the detector, of the probe, between slices twice
            moved = len(scan) * scan.N**2 * (8 * modes * transforms * 2 + 4)
            found["share_of_copy_bandwidth"] = moved / seconds / self.bandwidth
        few, _ = self._iteration(scan.select(np.arange(min(len(scan), 1024))), settings)
        return found | {"profile": self.profiled(few)}

    def _iteration(self, scan: RawData, settings: dict[str, Any]) -> tuple[Callable[[], None], Refinement]:
        config = RefinementConfig(**{"iterations": 1000, "held_out_fraction": 0.0, "schedule": "constant"} | settings)
        made = Refinement(scan, config, device=self.device)

        @torch.no_grad()
        def iteration() -> None:
            made.method.auxiliary.begin(made.run)
            made.method.iterate(made.run)
            made.method.auxiliary.settle(made.run)
            made.after.apply(made.run)

        return iteration, made

    def profiled(self, work: Callable[[], Any]) -> dict[str, Any] | None:
        """How many kernels ``work`` launches, how long they take together, and which take longest; None on a processor."""
        if self.device.type != "cuda":
            return None
        work()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            seconds = time.perf_counter() - start
        kernels = [event for event in found.key_averages() if event.self_device_time_total > 0]
        kernels.sort(key=lambda event: -event.self_device_time_total)
        busy = sum(event.self_device_time_total for event in kernels) / 1e6
        return {
            "kernels": sum(event.count for event in kernels),
            "busy_s": busy,
            "wall_s": seconds,
            "busy_share": busy / seconds,
            "longest": [
                {"name": event.key[:100], "calls": event.count, "s": event.self_device_time_total / 1e6}
                for event in kernels[:NAMED]
            ],
        }
