"""What a command costs beside its work: CPU seconds of a new process each, the least of three runs.

OMP_NUM_THREADS=1 python benchmarks/start.py
OMP_NUM_THREADS=1 python benchmarks/start.py --workers     # one with two workers on a cluster of its own, process by process
"""

from __future__ import annotations

import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ptycho_ray as pr

COMMANDS = {
    "a missing file": ["train", "nowhere.npz"],
    "info of a small scan": ["info", "small.npz"],
    "info of a scan of 131 MB in memory": ["info", "large.npz"],
    "refine, one iteration, with its report": [
        "refine",
        "small.npz",
        "--iterations",
        "1",
        "--output-dir",
        "image",
        "--overwrite",
    ],
}


def cpu_seconds(words: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "ptycho_ray", *words], cwd=folder, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_each_process(words: list[str], folder: Path) -> list[tuple[float, str]]:
    """CPU seconds and name of every process that a command starts, the most first; those of Ray are no children of it."""
    mark, tick = f"MEASURED={secrets.token_hex(8)}", os.sysconf("SC_CLK_TCK")
    environment = os.environ | dict([mark.split("=")])
    command = subprocess.Popen(
        [sys.executable, "-m", "ptycho_ray", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found: dict[str, tuple[float, str]] = {}
    ended = 0
    while ended < 10:  # looks after the end of the command, for those that outlive it
        ended += command.poll() is not None
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if process.name in found or mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
                    name = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    name = name.strip() or found.get(process.name, (0, ""))[1]
                    found[process.name] = ((int(user) + int(system)) / tick, name)
            except OSError:
                continue  # it has ended, or is somebody else's
        time.sleep(0.1)
    return sorted(found.values(), reverse=True)


def workers(folder: Path) -> None:
    words = ["refine", "small.npz", "--iterations", "2", "--workers", "2", "--output-dir", "image", "--overwrite"]
    each = min((of_each_process(words, folder) for _ in range(3)), key=lambda found: sum(s for s, _ in found))
    for seconds, name in [*each, (sum(seconds for seconds, _ in each), f"all {len(each)} processes")]:
        print(f"{seconds:6.2f} s  {name[-90:] if name.startswith('/') else name[:90]}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pr.save(pr.simulate(object="test_image", object_size=192, n_patterns=600, photons=1e7), folder / "small.npz")
        if sys.argv[1:] == ["--workers"]:
            workers(folder)
            return
        pr.save(pr.simulate(N=128, object_size=512, n_patterns=2000), folder / "large.npz")
        for what, words in COMMANDS.items():
            print(f"{what:40} {min(cpu_seconds(words, folder) for _ in range(3)):.2f} s")


if __name__ == "__main__":
    main()
