"""Files by which others install us: they name what ``pyproject.toml`` names. No engine builds them here; they are parsed."""

from __future__ import annotations

import re
import tomllib

import yaml
from helpers import ROOT

import ptycho_ray

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What conda calls some packages.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_the_conda_recipe_needs_what_the_wheel_needs() -> None:
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == ptycho_ray.__version__
    run = [line.replace(" ", "") for line in recipe["requirements"]["run"]]
    ours = []
    for line in PROJECT["dependencies"]:
        name, version = re.fullmatch(r"([\w-]+)(.*)", line).groups()  # type: ignore[union-attr]
        ours.append(CONDA.get(name, name) + version)
    assert run == [f"python{PROJECT['requires-python']}", *ours]
    for file in recipe["about"]["license_file"]:
        assert (ROOT / file).is_file()


def test_the_dockerfile_copies_what_there_is() -> None:
    text = (ROOT / "packaging/Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in lines} <= known
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    copied = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    for needed in ("pyproject.toml", "README.md", "LICENSE", "configs", "ptycho_ray"):  # the wheel is made of these
        assert needed in copied
    arguments = {line.split()[1].partition("=")[0] for line in lines if line.startswith("ARG")}
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= arguments
    extras = re.search(r"ARG EXTRAS=(\w+)", text)
    assert extras is not None
    assert extras[1] in PROJECT["optional-dependencies"]


def test_torch_is_the_one_of_the_tests() -> None:
    pinned = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert pinned is not None
    for file in ("packaging/Dockerfile", "docs/install.md", "Makefile"):
        assert f"torch=={pinned[1].partition('+')[0]}" in (ROOT / file).read_text(encoding="utf-8")


def test_the_page_of_installation_names_the_extras() -> None:
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    named = set(re.findall(r"ptycho-ray\[([\w,-]+)\]", page))
    assert {name for group in named for name in group.split(",")} <= set(PROJECT["optional-dependencies"])
    assert {"cluster", "serve", "live", "client"} <= {name for group in named for name in group.split(",")}
