"""Make a release: ``python .ci/release.py 0.2.0``.

It sets the version wherever it stands, dates the changelog, tests, commits and tags.
``--without-tests`` leaves ``make test-all`` out, for a tree in which it has just passed.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Where the version stands, and as what.
PLACES: dict[str, Callable[[str], str]] = {
    "ptycho_ray/__init__.py": lambda version: f'__version__ = "{version}"',
    "CITATION.cff": lambda version: f"\nversion: {version}",
    "configs/kuberay/*.yaml": lambda version: f"ptycho-ray:{version}",
    "cluster.yaml": lambda version: f"ptycho-ray:{version}",
}


def set_version(root: Path, old: str, new: str) -> list[Path]:
    """Replace ``old`` by ``new`` in every place; the files that changed.

    Raises:
        LookupError: a place does not hold the old version.
    """
    changed = []
    for pattern, said in PLACES.items():
        holding = [path for path in sorted(root.glob(pattern)) if said(old) in path.read_text(encoding="utf-8")]
        if not holding:
            raise LookupError(f"{pattern} does not say {said(old)!r}")
        for path in holding:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(said(old), said(new)), encoding="utf-8")
        changed += holding
    return changed


def date_changelog(path: Path, version: str, day: datetime.date) -> None:
    """What stands under "Unreleased" becomes the version's.

    Raises:
        LookupError: nothing stands there.
    """
    text = path.read_text(encoding="utf-8")
    found = re.search(r"## Unreleased\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    if not found or not found[1].strip():
        raise LookupError(f"{path}: nothing under Unreleased")
    heading = f"## Unreleased\n\n## {version} ({day.isoformat()})\n"
    path.write_text(text.replace("## Unreleased\n", heading, 1), encoding="utf-8")


def main(words: list[str]) -> None:
    if not words or not re.fullmatch(r"\d+\.\d+\.\d+", words[0]):
        raise SystemExit("usage: python .ci/release.py MAJOR.MINOR.PATCH [--without-tests]")
    new = words[0]
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout:
        raise SystemExit("the tree has changes that are not committed")
    found = re.search(r'__version__ = "(.*)"', (ROOT / "ptycho_ray/__init__.py").read_text(encoding="utf-8"))
    assert found
    set_version(ROOT, found[1], new)
    date_changelog(ROOT / "CHANGELOG.md", new, datetime.datetime.now(datetime.UTC).date())
    if "--without-tests" not in words:
        subprocess.run(["make", "test-all"], cwd=ROOT, check=True)
    subprocess.run(["git", "commit", "-aqm", f"Version {new}"], cwd=ROOT, check=True)
    subprocess.run(["git", "tag", "-a", f"v{new}", "-m", f"ptycho_ray {new}"], cwd=ROOT, check=True)
    print(f"git push --follow-tags publishes {new}")


if __name__ == "__main__":
    main(sys.argv[1:])
