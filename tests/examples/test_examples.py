"""The scripts of ``examples/`` do what they say."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from helpers import ROOT

import ptycho_ray as pr
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dataset_for_pytorch(small_scan):
    example = script("pytorch_dataset")
    counts, position = example.Patterns(small_scan)[3]
    torch.testing.assert_close(counts, torch.from_numpy(small_scan.patterns.intensity([3])[0]))
    assert tuple(position) == pytest.approx(small_scan.positions_px[3])
    losses = example.train([small_scan, small_scan], epochs=2)
    assert losses[1] < losses[0]


def test_an_operator_for_deepinv(small_scan):
    pytest.importorskip("deepinv", reason="deepinv is not installed (it is no dependency)")
    example = script("deepinv_operator")
    physics = example.Ptychography(small_scan)
    flat = diffraction_intensity(illuminate(torch.ones(32, 32), physics.probe)).sqrt()
    torch.testing.assert_close(physics(physics.flat())[0, 0], flat, atol=1e-3, rtol=1e-3)
    _, losses = example.reconstruct(small_scan, steps=10)
    assert losses[-1] < 0.7 * losses[0]


def test_the_scans_of_the_package_are_made_by_the_script():
    """The simulated one is what its description says."""
    example = script("make_scans")
    made = pr.load(pr.example("simulated"))
    assert (len(made), made.N, made.counts_are_photons) == (256, 64, True)
    assert len(pr.load(pr.example("measured"))) == example.PATTERNS
