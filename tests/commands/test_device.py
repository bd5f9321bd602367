"""``--device`` is an option of every command that computes, and reaches what computes."""

from __future__ import annotations

import pytest
import torch

from ptycho_ray import workflow
from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.training.device import resolve_device


@pytest.mark.parametrize(
    "words",
    [
        ["reconstruct", "SCAN"],
        ["reconstruct", "SCAN", "--model-path", "pretrained"],
        ["refine", "SCAN"],
        ["train", "SCAN", "--N", "32"],
        ["evaluate", "IMAGE", "SCAN"],
        ["compare", "IMAGE", "--scan", "SCAN"],
        ["orient", "SCAN"],
        ["prepare", "SCAN", "OTHER", "--find-orientation"],
    ],
)
def test_a_device_that_is_not_there_is_refused_in_a_sentence(scan_file, tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    named = {"SCAN": scan_file, "IMAGE": tmp_path, "OTHER": tmp_path / "other.h5"}
    words = [str(named.get(word, word)) for word in words]
    where = [] if words[0] in ("orient", "prepare") else ["--output-dir", str(tmp_path / "out")]
    assert main([*words, "--device", "cuda:1", *where]) == 2
    assert "does not have this device; found 'cuda:1'; expected auto" in capsys.readouterr().err


def test_a_word_that_is_no_device_is_refused(scan_file, capsys):
    assert main(["refine", str(scan_file), "--device", "gpu7"]) == 2
    assert "'cuda:1'" in capsys.readouterr().err


def test_the_gpu_of_a_number_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(ExecutionConfig()) == torch.device("cuda")
    assert resolve_device(ExecutionConfig(accelerator="cuda:1")) == torch.device("cuda:1")
    with pytest.raises(ConfigurationError, match=r"cuda:2.*cuda:0, cuda:1"):
        resolve_device(ExecutionConfig(accelerator="cuda:2"))


class _Reached(Exception):
    """What was asked for has arrived."""


@pytest.mark.parametrize(("words", "core"), [(["reconstruct"], "reconstruct_scan"), (["refine"], "refine_cdi_image")])
def test_the_solver_gets_the_device(scan_file, tmp_path, monkeypatch, words, core):
    def compute(*args, device, **options):
        raise _Reached(device)

    monkeypatch.setattr(workflow, core, compute)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(_Reached, match="cuda:1"):
        main([*words, str(scan_file), "--device", "cuda:1", "--output-dir", str(tmp_path / "out")])
