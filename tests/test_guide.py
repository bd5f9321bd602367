"""docs/guide.md and docs/electrons.md, followed line by line with short training; the shipped configurations."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from helpers import ROOT

from ptycho_ray.commands.cli import main


def commands(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
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
    every = commands("guide.md")
    assert len(every) >= 10
    for program, *words in every:
        assert program == "ptycho-ray"
        assert main(shortened(words)) == 0, f"{' '.join(words)}\n{capsys.readouterr().err}"
    for written in ("model/report.html", "model/wts.h5.zip", "image/reconstruction.npz", "comparison/comparison.html"):
        assert (tmp_path / written).is_file(), written


@pytest.mark.slow
def test_five_commands_lead_from_a_microscopes_file_to_slices(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    first, lacking, *others = commands("electrons.md")
    assert len(others) == 4
    assert main([*first[1:], "--raster", "14", "14", "--N", "32", "--angle-per-pixel-mrad", "2", "--phonons", "0"]) == 0
    assert main(lacking[1:]) == 0
    assert "--semiangle-mrad" in capsys.readouterr().out, "what the file lacks"
    for program, *words in others:
        assert program == "ptycho-ray"
        shorter = ["--iterations", "2"] if words[0] == "refine" else []
        assert main([*words, *shorter]) == 0, f"{' '.join(words)}\n{capsys.readouterr().err}"
    for written in ("look/first_look.png", "calibration/calibration.json", "image/report.html", "slices/slices.tif"):
        assert (tmp_path / written).is_file(), written


@pytest.mark.parametrize("file", sorted((ROOT / "configs/refine").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_refinement_is_valid(file):
    from ptycho_ray.config.sources import load_yaml_config
    from ptycho_ray.refinement.config import RefinementConfig

    assert RefinementConfig(**load_yaml_config(file)) != RefinementConfig()


@pytest.mark.parametrize("file", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(file):
    from ptycho_ray.config import TrainingConfig
    from ptycho_ray.config.sources import resolve_config

    resolved = resolve_config(TrainingConfig, file, environment={})
    assert any(source == str(file) for source in resolved.provenance.values())
