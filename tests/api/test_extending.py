"""What somebody else adds: by registration in a program, and by a package with entry points (``examples/their_package``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib

import pytest
import torch
from helpers import ROOT
from torch import nn

import ptycho_ray as pr
from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import ModelConfig, extensions
from ptycho_ray.errors import BundleError, ConfigurationError
from ptycho_ray.models.registry import build_network

PACKAGE = ROOT / "examples" / "their_package"
SMALL = {"nepochs": 1, "batch_size": 8, "progress": False}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(extensions, "_REGISTERED", {kind: {} for kind in extensions.KINDS})


class Plain(nn.Module):
    """Real and imaginary part from one convolution."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, amplitudes: torch.Tensor) -> torch.Tensor:
        real, imaginary = self.layer(amplitudes).chunk(2, dim=1)
        return torch.complex(1 + real, imaginary)


def plain(config: ModelConfig) -> nn.Module:
    return Plain(config.gridsize**2)


def test_a_module_or_a_function_is_handed_in(small_scan, tmp_path):
    module = Plain()
    before = module.layer.weight.detach().clone()
    image = pr.train(small_scan, network=module, **SMALL)
    assert image.bundle.config.model.architecture == "Plain"
    assert torch.equal(module.layer.weight, before)  # a copy is trained
    assert not torch.equal(image.bundle.model.network.layer.weight, before)
    again = pr.train(small_scan, network=plain, gridsize=2, neighbor_count=5, **SMALL)
    assert again.bundle.config.model.architecture == "plain"


def test_one_network_for_several_scans(small_scan, other_scan):
    image = pr.train(small_scan, other_scan, network=plain, **SMALL)
    assert len(image.scan) == len(small_scan)
    assert image.image.shape == pr.train(small_scan, network=plain, **SMALL).image.shape


def test_a_model_of_an_unknown_network_says_so(small_scan, tmp_path, monkeypatch):
    place = pr.train(small_scan, network=plain, **SMALL).save_model(tmp_path)
    assert load_bundle(place).config.model.architecture == "plain"
    monkeypatch.setattr(extensions, "_REGISTERED", {kind: {} for kind in extensions.KINDS})
    with pytest.raises(BundleError, match=r"register_network\('plain', \.\.\.\) first"):
        load_bundle(place)


def test_a_likelihood_is_a_term_of_the_loss(small_scan):
    asked = []

    def cautious(rate: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        asked.append(rate.shape)
        return (rate.sqrt() - counts.sqrt()).abs()

    pr.register_likelihood("cautious", cautious)
    image = pr.train(small_scan, network=plain, likelihood="cautious", nll_weight=0, **SMALL)
    assert asked
    assert set(image.history) >= {"likelihood", "val_likelihood"}
    assert "nll" not in image.history


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pr.register_network("cnn", plain),
            "name: found 'cnn', a network of ptycho_ray; expected another name",
        ),
        (lambda: pr.register_network("two words", plain), "expected a word"),
        (lambda: pr.register_network("x", 5), "network: found int; expected a function"),
        (lambda: pr.register_format("tiff"), "form: found str; expected a ptycho_ray.data.formats.Format"),
        (lambda: ModelConfig(architecture="plan"), "found 'plan'; expected one of cnn,"),
    ],
)
def test_what_cannot_be_registered(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_a_registered_name_is_known_and_near_ones_are_suggested():
    pr.register_network("plain", plain)
    assert isinstance(build_network(ModelConfig(architecture="plain")), Plain)
    with pytest.raises(ConfigurationError, match="Did you mean 'plain'"):
        ModelConfig(architecture="plainn")


def test_the_example_package_is_small():
    lines = sum(
        len((PACKAGE / "their_package" / f"{name}.py").read_text(encoding="utf-8").splitlines())
        for name in ("network", "likelihood", "lab_format")
    )
    assert lines < 120


def test_a_package_with_entry_points(scan_file, tmp_path):
    """Installed as pip would: its metadata lie beside it."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = tmp_path / "site" / "their_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n", encoding="utf-8")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import json, sys
from ptycho_ray.commands.cli import main
import ptycho_ray as pr
from ptycho_ray.live.growing_files import Ending
from ptycho_ray.config import extensions
scan, folder = {str(scan_file)!r}, {str(tmp_path)!r}
codes = [
    main(["convert", scan, folder + "/lab.npz", "--to", "lab_npz", "--pixel-size-m", "1e-8"]),
    main(["train", folder + "/lab.npz", "--architecture", "two_layers", "--likelihood", "student", "--nll-weight", "0",
          "--nepochs", "1", "--output-dir", folder + "/model"]),
]
told = pr.info(folder + "/lab.npz")
replay = extensions.find("source", "replay")
frames = list(replay("replay://" + scan, Ending(patterns=20)))
print(json.dumps([codes, told["format"], told["patterns"], sum(len(each.patterns) for each in frames)]))
""",
        encoding="utf-8",
    )
    paths = [str(ROOT), str(PACKAGE), str(tmp_path / "site")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    codes, form, patterns, frames = json.loads(done.stdout.splitlines()[-1])
    assert (codes, form, patterns, frames) == ([0, 0], "lab_npz (NPZ of the laboratory)", 60, 20)
