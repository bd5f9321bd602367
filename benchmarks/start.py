"""What a command costs beside its work: CPU seconds of a new process each, the least of three runs.

OMP_NUM_THREADS=1 python benchmarks/start.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
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


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pr.save(pr.simulate(object="test_image", object_size=192, n_patterns=600, photons=1e7), folder / "small.npz")
        pr.save(pr.simulate(N=128, object_size=512, n_patterns=2000), folder / "large.npz")
        for what, words in COMMANDS.items():
            print(f"{what:40} {min(cpu_seconds(words, folder) for _ in range(3)):.2f} s")


if __name__ == "__main__":
    main()
