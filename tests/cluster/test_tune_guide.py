"""The tutorial of docs/tune.md, followed as it stands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.commands.cli import main


@pytest.mark.slow
def test_the_tutorial_finds_defocus_and_photons(tmp_path: Path, monkeypatch, capsys) -> None:
    text = (ROOT / "docs/tune.md").read_text(encoding="utf-8").partition("## Tutorial")[2]
    monkeypatch.chdir(tmp_path)
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL):
        if language == "python":
            exec(compile(block, "docs/tune.md", "exec"), {})
        elif language == "yaml":
            Path("careless.yaml").write_text(block, encoding="utf-8")
        else:
            program, *words = shlex.split(block)
            assert program == "ptycho-ray"
            shorter = [*words, "--n-filters-scale", "1"] if words[0] == "train" else words
            assert main(shorter) == 0, capsys.readouterr().err
    best = json.loads(Path("careless-sweep/result.json").read_text())["best"]
    assert best["probe_defocus_m"] == pytest.approx(6e-5, rel=0.1)
    assert 3.4e4 < best["nphotons"] < 5.5e4
    assert Path("careless-model/wts.h5.zip").is_file()
