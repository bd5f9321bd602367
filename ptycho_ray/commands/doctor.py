"""``ptycho-ray doctor``."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_ray import __version__
from ptycho_ray.commands.common import Common, Result
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import InputError
from ptycho_ray.files import package_version

CORE = ("numpy", "scipy", "h5py", "hdf5plugin", "torch", "matplotlib", "scikit-image", "pydantic", "tyro")
#: What an extra brings, by the module that tells whether it is there.
EXTRAS = {"cluster": "ray", "serve": "fastapi", "client": "httpx", "live": "zmq"}
#: Who listens where by default.
PORTS = {8000: "ptycho-ray serve", 8265: "dashboard of Ray", 6379: "Ray cluster"}
LEAST_FREE_BYTES, LEAST_MEMORY_BYTES = 2**30, 2 * 2**30
#: Radians by which the image of the self-test may differ from the known object on average; it does by 0.004.
LARGEST_ERROR = 0.02
GOOD, ODD, BAD = "good", "look at this", "does not work"


@dataclass(kw_only=True)
class Options(Common):
    """Check the installation: versions, device, threads, memory, disk, ports, and the reconstruction of a small simulated scan,
    which takes a few seconds. Exit code 1 if something does not work.

    Example: ptycho-ray doctor
    """

    no_test: bool = False
    """Leave out the reconstruction."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray doctor").options
    checks = [_program(), _packages(), _extras(), _threads(), _memory(), _disk(), _ports()]
    checks.append(_guarded("device", _device))
    if not options.no_test:
        checks.append(_guarded("self-test", _self_test))
    worst = next((answer for answer in (BAD, ODD) if any(check["answer"] == answer for check in checks)), GOOD)
    said = {GOOD: "everything works", ODD: "it works; see the lines marked above", BAD: "something does not work"}
    return {"checks": checks, "verdict": said[worst], "exit_code": 1 if worst == BAD else 0}


def as_text(result: Mapping[str, Any]) -> Iterator[str]:
    """A line for each check, and what to do where it is not good."""
    for check in result["checks"]:
        mark = {GOOD: "ok", ODD: "!", BAD: "FAILED"}[check["answer"]]
        lead = f"{check['what']:10} {mark:7}"
        yield from textwrap.wrap(check["found"], 118, initial_indent=lead, subsequent_indent=" " * len(lead))
        if check["do"]:
            yield from textwrap.wrap(
                check["do"], 118, initial_indent=" " * len(lead), subsequent_indent=" " * len(lead)
            )
    yield f"verdict: {result['verdict']}"


def _check(what: str, found: str, answer: str = GOOD, do: str = "") -> Result:
    return {"what": what, "found": found, "answer": answer, "do": do}


def _guarded(what: str, check: Callable[[], Result]) -> Result:
    """The check, or that it failed and how: whatever is broken here is what is looked for."""
    try:
        return check()
    except Exception as error:
        return _check(what, f"{type(error).__name__}: {error}", BAD, "install the package again in a new environment")


def _program() -> Result:
    found = f"ptycho_ray {__version__}, Python {platform.python_version()} ({sys.executable}), {platform.platform()}"
    return _check("program", found)


def _packages() -> Result:
    found = {name: package_version(name) for name in CORE}
    missing = [name for name, number in found.items() if number is None]
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    return _check("packages", text, BAD if missing else GOOD, f"pip install {' '.join(missing)}" if missing else "")


def _extras() -> Result:
    there = {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()}
    text = ", ".join(f"{name} {'installed' if found else 'not installed'}" for name, found in there.items())
    absent = [name for name, found in there.items() if not found]
    return _check("extras", text, GOOD, f"if needed: pip install 'ptycho-ray[{','.join(absent)}]'" if absent else "")


def _threads() -> Result:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    said = "".join(f", {name}={value}" for name, value in limits.items())
    return _check("threads", f"{usable} of {os.cpu_count()} processor cores may be used{said}")


def _memory() -> Result:
    from ptycho_ray.data.contents import free_memory_bytes

    free = free_memory_bytes()
    few = free < LEAST_MEMORY_BYTES
    return _check("memory", f"{free / 2**30:.1f} GiB free", ODD if few else GOOD, "close other programs" if few else "")


def _disk() -> Result:
    texts, answer, do = [], GOOD, ""
    for name, folder in (("here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        texts.append(f"{free / 2**30:.1f} GiB free for {name} ({folder})")
        if not os.access(folder, os.W_OK) or free < LEAST_FREE_BYTES:
            answer, do = ODD, "results go into the current folder: go to one with room that can be written to"
    return _check("disk", ", ".join(texts), answer, do)


def _ports() -> Result:
    taken = [f"{port} ({who})" for port, who in PORTS.items() if _is_taken(port)]
    free = [str(port) for port in PORTS if not _is_taken(port)]
    text = f"free: {', '.join(free) or 'none'}" + (f"; taken: {', '.join(taken)}" if taken else "")
    return _check("ports", text, GOOD, "serve takes another by --port" if taken else "")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _device() -> Result:
    import torch

    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.training.device import resolve_device

    device = resolve_device(ExecutionConfig())
    built = f"torch {torch.__version__}"
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return _check("device", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB ({built})")
    if device.type == "mps":
        return _check("device", f"Apple GPU ({built})")
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        do = (
            "there seems to be a GPU, but this torch is built for the processor: docs/install.md has the line with CUDA"
        )
        return _check("device", f"processor ({built})", ODD, do)
    return _check("device", f"processor ({built}); no GPU was found, none is needed")


def _self_test() -> Result:
    """Simulate, write, read, solve, compare with the known object, draw."""
    import numpy as np

    from ptycho_ray import workflow
    from ptycho_ray.display.figures import plot_object, save_figure
    from ptycho_ray.evaluation import evaluate_reconstruction
    from ptycho_ray.refinement.config import RefinementConfig
    from ptycho_ray.simulation import SimulationSpec, simulate

    began = time.perf_counter()
    spec = SimulationSpec(object="lines", object_size=96, N=32, n_patterns=144, photons=1e6, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.h5"
        simulate(spec).to_file(file)
        scan = workflow.load_data(file)
        image = workflow.refine_cdi_image(scan, RefinementConfig(iterations=20, seed=1)).stitched
        save_figure(plot_object(image.image, region=image.covered()), Path(folder) / "image.png", dpi=50)
        if scan.object_truth is None:
            raise InputError(file=file, field="object", found="none", expected="the object that was written")
        found = evaluate_reconstruction(
            image.image, scan.object_truth, origin_px=image.origin_px, region=image.covered()
        )
        del scan  # before its file is removed
    seconds, error = time.perf_counter() - began, float(found.phase.mae)
    right = bool(np.isfinite(error) and error < LARGEST_ERROR)
    text = f"a simulated scan was solved in {seconds:.1f} s with a phase error of {error:.3f} rad"
    return _check("self-test", text, GOOD if right else BAD, "" if right else f"expected less than {LARGEST_ERROR} rad")
