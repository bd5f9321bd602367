"""docs/guide.md, followed line by line with short training."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from helpers import ROOT

from ptycho_ray.commands.cli import main


def commands() -> list[list[str]]:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    return [shlex.split(line) for line in lines if line]


def shortened(words: list[str]) -> list[str]:
    """The same command on fewer patterns of a smaller object."""
    smaller = {"600": "60", "300": "40", "192": "110"}
    return [smaller.get(word, word) for word in words]


@pytest.mark.slow
def test_every_command_of_the_guide_works(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTYCHO_RAY_NEPOCHS", "1")
    every = commands()
    assert len(every) >= 10
    for program, *words in every:
        assert program == "ptycho-ray"
        assert main(shortened(words)) == 0, f"{' '.join(words)}\n{capsys.readouterr().err}"
    for written in ("model/report.html", "model/wts.h5.zip", "image/reconstruction.npz", "comparison/comparison.html"):
        assert (tmp_path / written).is_file(), written


@pytest.mark.parametrize("file", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(file):
    from ptycho_ray.config import TrainingConfig
    from ptycho_ray.config.sources import resolve_config

    resolved = resolve_config(TrainingConfig, file, environment={})
    assert any(source == str(file) for source in resolved.provenance.values())
