"""Every ``ptycho-ray`` line in README, docs and the heads of configurations has options and files that exist.

The lines of docs/guide.md, docs/electrons.md and the gallery are run, too (test_guide.py, test_site.py).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT, options_of

from ptycho_ray.commands.cli import ALIASES, COMMANDS

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
)


def lines_of(page: Path) -> list[str]:
    """Lines of code that begin with the program, comments left out and continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    begin = r"#\s+" if page.suffix == ".yaml" else r"\s*"
    return [
        line for line in re.findall(rf"^{begin}(ptycho-ray [a-z-]+ [^\n]*)$", text, re.MULTILINE) if "`" not in line
    ]


def faults(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    for stop in ("|", "||", "&&", ">", "2>&1", "&", ";"):
        words = words[: words.index(stop)] if stop in words else words
    command = ALIASES.get(words[1], words[1])
    if command not in COMMANDS:
        return [f"no command {command}"]
    known = options_of(command)
    found = []
    for word in words[2:]:
        option = word.split("=")[0]
        if word.startswith("--") and option not in known and option.replace("_", "-") not in known:
            found.append(f"no option {option}")
        if word.startswith(("configs/", "jobs/")) and not (ROOT / word).exists():
            found.append(f"no file {word}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page):
    assert {line: found for line in lines_of(page) if (found := faults(line))} == {}


def test_commands_are_looked_for():
    assert sum(len(lines_of(page)) for page in PAGES) > 100
    assert faults("ptycho-ray refine scan.npz --iteration 30") == ["no option --iteration"]
    assert faults("ptycho-ray refit scan.npz") == ["no command refit"]
    assert faults("ptycho-ray train --config configs/train/none.yaml") == ["no file configs/train/none.yaml"]
