"""What a GPU computes, and how fast: checks against the processor, throughput, one JSON and one page. See ``gpu_day.sh``.

    bash benchmarks/gpu_day.sh OUT                 # all of it, under 25 minutes on one card of the class of an H200
    bash benchmarks/gpu_day.sh OUT --quick         # everything once and small, also on a processor

The files are written anew after every measurement, so that what was measured is kept if the time ends.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gpu_day_speed as speed
import numpy as np
import torch
from gpu_day_checks import CHECKS, made_scan
from gpu_day_page import DEFAULT, ONE_SLICE, page

CPU = torch.device("cpu")
#: Patterns of a scan on the GPU by their side, and the share of them that is enough for the processor.
PATTERNS, CPU_SHARE = {64: 16384, 128: 8192, 256: 2048}, 1 / 32


def cases(bench: speed.Bench, scans: speed.Scans, quick: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of each case; the names of all that belong to a goal begin as it does."""
    on_cpu = bench.device.type == "cpu"
    share = CPU_SHARE if on_cpu and not quick else 1.0
    ways = [(256, each) for each in ("32-true", "tf32", "bf16-mixed")] + [(1024, "32-true"), (1024, "bf16-mixed")]
    for n in sorted(scans.patterns):
        scan, fewer = scans.of(n, share), scans.of(n, share / (1 if on_cpu else 4))
        for batch, precision in [(16, "32-true")] + ([] if on_cpu else ways):
            some = fewer if batch == 16 else scan
            yield f"training N={n} batch={batch} {precision}", partial(bench.training, some, batch, precision)
        for batch in (16, 256):
            yield f"inference N={n} batch={batch}", partial(bench.inference, scan, batch)
        for modes, slices in ((1, 1), (2, 2)) if quick else ((1, 1), (4, 1), (1, 10), (4, 10)):
            thick = {"slices": slices, "slice_distance_px2": 3.0, "method": "epie"} if slices > 1 else {}
            settings: dict[str, dict[str, Any]] = {DEFAULT: {}, "batch of 512": {"batch_size": 512}}
            if slices == 1:
                settings |= {"accelerated": {"method": "accelerated"}, "positions": {"position_start": 0}}
            else:
                settings[ONE_SLICE] = {"slices": 1, "slice_distance_px2": 0.0}
            for way, chosen in settings.items():
                name = f"refinement N={n} modes={modes} slices={slices} {way}"
                yield name, partial(bench.refinement, scan, probe_modes=modes, **thick | chosen)
    yield from compiled_cases(bench, scans, quick)


def compiled_cases(
    bench: speed.Bench, scans: speed.Scans, quick: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The smallest patterns with a compiled network, last since compiling takes long; on a processor only in the quick run."""
    on_cpu, n = bench.device.type == "cpu", min(scans.patterns)
    if on_cpu and not quick:
        return
    for way, how in list(speed.COMPILED.items())[: 1 if on_cpu else None]:  # a processor has no CUDA graphs
        for batch, precision in [(16, "32-true")] + ([] if on_cpu else [(256, "bf16-mixed")]):
            some = scans.of(n, 1 / 4 if batch == 16 and not quick else 1.0)
            yield (
                f"{way}: training N={n} batch={batch} {precision}",
                partial(bench.training, some, batch, precision, how),
            )
        yield f"{way}: inference N={n} batch=256", partial(bench.inference, scans.of(n), 256, how)


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"card": card.name, "memory": f"{card.total_memory / 2**30:.0f} GiB", "CUDA": torch.version.cuda}
        found["cuDNN"] = torch.backends.cudnn.version()
    return found | {"commit": _commit()}


def _commit() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Day:
    """What was found so far, and its files."""

    def __init__(self, folder: Path, minutes: float, device: torch.device) -> None:
        self.folder, self.began, self.end = folder, time.monotonic(), time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {"machine": machine(device), "checks": [], "speed": {}, "left_out": []}
        folder.mkdir(parents=True, exist_ok=True)

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; None, and a line, where it fails or the time is over."""
        if time.monotonic() > self.end:
            self.found["left_out"].append(f"{name}: no time was left")
            return None
        began = time.monotonic()
        try:
            return work()
        except Exception as error:
            traceback.print_exc()
            self.found["left_out"].append(f"{name}: {type(error).__name__}: {str(error)[:300]!r}")
            return None
        finally:
            print(f"{time.monotonic() - self.began:7.1f} s  {name}  ({time.monotonic() - began:.1f} s)", flush=True)

    def write(self) -> None:
        self.found["seconds"] = round(time.monotonic() - self.began, 1)
        text = json.dumps(self.found, indent=1) + "\n"
        (self.folder / "gpu_day.json").write_text(text, encoding="utf-8")
        (self.folder / "gpu_day.md").write_text(page(self.found), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="everything once and small")
    parser.add_argument("--minutes", type=float, default=24.0, help="begin nothing new after so many")
    options = parser.parse_args()
    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    day = Day(options.out, options.minutes, device)
    small = made_scan(32, 40) if options.quick else made_scan(64, 96)
    for name, checks in CHECKS.items():

        def make(checks: Any = checks) -> None:
            for check in checks(device, small):
                day.found["checks"].append(vars(check))

        day.attempt(f"checks: {name}", make)
        day.write()
    least, size = (0.02, 2**22) if options.quick else (1.0, 2**31)
    bench, processor = speed.Bench(device, least), speed.Bench(CPU, least)
    day.found["copy_bandwidth"] = day.attempt("copy", partial(bench.copy, size))
    scans = speed.Scans({32: 40} if options.quick else PATTERNS)
    slow = cases(processor, scans, options.quick)
    beside = {} if device == CPU else dict(slow)
    for name, work in cases(bench, scans, options.quick):
        day.found["speed"][name] = {"device": day.attempt(name, work)}
        if name in beside:
            day.found["speed"][name]["processor"] = day.attempt(f"{name}, on the processor", beside[name])
        day.write()
    print(f"{day.folder / 'gpu_day.md'} and gpu_day.json")
    failed = [check["name"] for check in day.found["checks"] if not check["difference"] <= check["allowed"]]
    failed += [line for line in day.found["left_out"] if line.startswith("checks")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
