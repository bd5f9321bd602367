"""The scan's axes are found among eight; what data cannot tell is said to be undecided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, load_data
from ptycho_ray.errors import InputError
from ptycho_ray.refinement.orientation import EIGHT, Orientation, find_orientation, judge, probe_symmetry
from ptycho_ray.simulation import make_object, make_probe, make_scan, simulate_scan

N = 32


def simulated(probe_kind: str) -> RawData:
    rng = np.random.default_rng(5)
    image = make_object("dead_leaves", (88, 88), rng)
    probe = make_probe(probe_kind, N, rng, photons=1e6)
    positions = make_scan("fermat", (88, 88), N, rng, n_patterns=120)
    return simulate_scan(image, probe.astype(np.complex64), positions, rng=rng)


@pytest.fixture(scope="module")
def scan() -> RawData:
    return simulated("zernike")


def misoriented(scan: RawData, wrong: Orientation) -> RawData:
    """The scan with positions that ``wrong`` puts right."""
    stored = scan.positions_px[:, ::-1] if wrong.swap_xy else scan.positions_px
    stored = stored * [-1.0 if wrong.flip_y else 1.0, -1.0 if wrong.flip_x else 1.0]
    return RawData(
        stored[:, 1], stored[:, 0], None, None, scan.patterns.intensity(), scan.probe, domain="intensity"
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [EIGHT[0], EIGHT[3], EIGHT[5], EIGHT[6]], ids=lambda each: each.options())
def test_each_orientation_is_found(wrong: Orientation, scan: RawData) -> None:
    verdict = find_orientation(misoriented(scan, wrong), np.random.default_rng(0), most_patterns=90)
    assert (verdict.best, verdict.undecided) == (wrong, "")
    assert verdict.margin > 0.05
    assert verdict.turned_margin > 0.05
    assert len(verdict.misfits) == 8


def test_a_symmetric_probe_cannot_tell_a_turned_scan(scan: RawData) -> None:
    symmetric = simulated("disc")
    assert probe_symmetry(symmetric.probe) > 0.999
    assert probe_symmetry(scan.probe) < 0.9
    verdict = find_orientation(symmetric, np.random.default_rng(0), most_patterns=90, most_passes=16)
    assert verdict.undecided == "180 degrees"
    assert verdict.best in (Orientation(), Orientation().turned())
    assert abs(verdict.turned_margin) < 0.02
    assert verdict.margin > 0.05


def test_noise_leaves_everything_undecided(scan: RawData) -> None:
    """Patterns in random order have nothing to do with the positions."""
    shuffled = scan.select(np.random.default_rng(0).permutation(len(scan)))
    shuffled.positions_px = scan.positions_px
    verdict = find_orientation(shuffled, np.random.default_rng(0), most_patterns=90, most_passes=16)
    assert verdict.undecided == "axes"


def test_measured_scan_is_as_stored(shared_data: Any) -> None:
    scan = load_data(shared_data("aps_siemens.npz"))
    verdict = find_orientation(scan, np.random.default_rng(0), most_patterns=60)
    assert (verdict.best, verdict.undecided) == (Orientation(), "")
    assert verdict.margin > 0.3


def test_the_verdict_wants_both_a_margin_and_significance() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 0.2, 40)
    clear = {each: base * (1.0 if each == EIGHT[2] else 1.5) for each in EIGHT}
    assert (judge(clear, 0.5, 8).best, judge(clear, 0.5, 8).undecided) == (EIGHT[2], "")
    turned = clear | {EIGHT[2].turned(): base * 1.01}
    assert judge(turned, 0.5, 8).undecided == "180 degrees"
    noisy = {each: base + (0 if each == EIGHT[2] else rng.normal(0.02, 0.3, 40)) for each in EIGHT}
    assert judge(noisy, 0.5, 8).undecided == "axes"


def test_orientations_apply_as_load_data_does(scan: RawData, tmp_path: Path) -> None:
    scan.to_file(tmp_path / "scan.npz")
    for each in EIGHT:
        loaded = load_data(tmp_path / "scan.npz", flip_x=each.flip_x, flip_y=each.flip_y, swap_xy=each.swap_xy)
        np.testing.assert_allclose(each.apply(scan.positions_px), loaded.positions_px)


def test_command(scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    misoriented(scan, Orientation(flip_x=True)).to_file(tmp_path / "scan.npz")
    words = ["orient", str(tmp_path / "scan.npz"), "--most-patterns", "90", "--json"]
    assert main([*words, "--output", str(tmp_path / "right.npz")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["orientation"] == "--flip-x"
    assert told["undecided"] is None
    assert told["misfit_on_held_out_patterns"][0]["orientation"] == "--flip-x"
    np.testing.assert_allclose(load_data(tmp_path / "right.npz").positions_px, scan.positions_px)
    simulated("disc").to_file(tmp_path / "disc.npz")
    words = ["orient", str(tmp_path / "disc.npz"), "--most-patterns", "60", "--most-passes", "8"]
    assert main([*words, "--output", str(tmp_path / "no.npz")]) == 2
    assert "undecided" in capsys.readouterr().err
    assert not (tmp_path / "no.npz").exists()


def test_too_few_patterns(scan: RawData) -> None:
    with pytest.raises(InputError, match="at least 8"):
        find_orientation(scan.select(np.arange(5)), np.random.default_rng(0))
