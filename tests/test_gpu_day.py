"""The day on a machine with a GPU: its page, and all of it small on the processor."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT


def gpu_day_page() -> Any:
    path = ROOT / "benchmarks" / "gpu_day_page.py"
    spec = importlib.util.spec_from_file_location("gpu_day_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(speed: float, **more: Any) -> dict[str, Any]:
    return {"device": {"patterns_per_s": speed, **more}, "processor": {"patterns_per_s": 10.0}}


def test_the_page_tells_goals_checks_and_what_was_left_out() -> None:
    profile = {"kernels": 7, "busy_share": 0.5, "longest": [{"name": "fft", "calls": 3, "s": 0.001}]}
    found = {
        "machine": {"card": "one"},
        "copy_bandwidth": 4e12,
        "seconds": 1.0,
        "checks": [
            {"name": "gradient", "difference": 1e-5, "allowed": 1e-3, "note": ""},
            {"name": "losses", "difference": float("nan"), "allowed": 1e-3, "note": "why"},
        ],
        "speed": {
            "training N=64 batch=16 32-true": case(9_000.0),
            "training N=64 batch=256 tf32": case(11_000.0, profile=profile, peak_bytes=2**21),
            "inference N=64 batch=16": {"device": None},
            "refinement N=64 modes=1 slices=1 default batch": case(99_000.0, share_of_copy_bandwidth=0.25),
            "refinement N=64 modes=1 slices=10 default batch": case(1_000.0),
            "refinement N=64 modes=1 slices=10 one slice, same method": case(11_500.0),
        },
        "left_out": ["refinement N=256: no time was left"],
    }
    lines = gpu_day_page().page(found).splitlines()
    for line in (
        "| training, N = 64, recommended network | 10,000 patterns/s | 11,000 (batch=256 tf32) | reached |",
        "| inference, N = 64, recommended network | 20,000 patterns/s |  | not measured |",
        "| refinement, N = 64 | 100,000 patterns/s | 99,000 (default batch) | missed |",
        "| refinement N=64 modes=1 slices=10 | at most 12 times one slice | 11.5 | reached |",
        "| gradient | 1e-05 | 0.001 | passed |",
        "| losses | nan | 0.001 | **failed** (why) |",
        "| training N=64 batch=256 tf32 | 11,000 | 10 | 1100.0 | 2 MiB | 7 | 50% |  |",
        "- 1.00 ms in 3 calls: `fft`",
        "- refinement N=256: no time was left",
    ):
        assert line in lines, line


@pytest.mark.slow
def test_the_whole_day_runs_small_on_the_processor(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "benchmarks" / "gpu_day.sh"), str(tmp_path), "--quick"]
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_day.json").read_text())
    assert found["left_out"] == []
    assert {check["difference"] for check in found["checks"]} == {0}
    assert len(found["checks"]) > 25
    assert all(case["device"]["patterns_per_s"] > 0 for case in found["speed"].values())
    assert {name for name in found["speed"] if name.startswith("compiled")} == {
        "compiled: training N=32 batch=16 32-true",
        "compiled: inference N=32 batch=256",
    }
    assert "## Goals" in (tmp_path / "gpu_day.md").read_text()
