"""Run pages of the gallery as a reader would, and renew their pictures: ``python docs/gallery/execute.py [NAME.md ...]``.

The blocks of a page marked ``sh`` or ``python`` are run in order, in one empty folder. A comment ``<!-- picture: FILE -->``
above an image names the file of that folder that the image shows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"<!-- picture: (\S+) -->\n!\[[^]]*\]\((\S+)\)")
#: Width of a picture in pixels, at most.
WIDTH = 900


def execute(page: Path, folder: Path) -> dict[str, Path]:
    """Run a page in ``folder``; its pictures, name in the page -> file.

    Raises:
        CalledProcessError: a block failed; its output is in the error.
        FileNotFoundError: a picture was not made.
    """
    text = page.read_text(encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, code in BLOCK.findall(text):
        words = ["bash", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, code, done.stdout, done.stderr)
    pictures = {name: folder / made for made, name in PICTURE.findall(text)}
    for made in pictures.values():
        if not made.is_file():
            raise FileNotFoundError(made)
    return pictures


def keep(made: Path, path: Path) -> None:
    """A picture as the page shows it: no wider than WIDTH."""
    image = Image.open(made).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.save(path, quality=88, optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(file.name for file in HERE.glob("*.md") if file.name != "index.md"):
        with tempfile.TemporaryDirectory() as scratch:
            for picture, made in execute(HERE / name, Path(scratch)).items():
                keep(made, HERE / picture)
        print(name, flush=True)
