"""``import ptycho_ray as pr``: the answers are those of the commands, and errors name argument, found, expected."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

import ptycho_ray as pr
from ptycho_ray.commands.cli import main
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import jsonable

SOLVER = {"iterations": 6, "seed": 4}


@pytest.fixture(scope="module")
def refined(small_scan):
    return pr.refine(small_scan, progress=False, **SOLVER)


def told(words: list[Any], capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_public_function_is_in_the_documentation_and_only_those():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `pr\.(\w+)", page, flags=re.MULTILINE))
    assert documented == set(pr.__all__) - {"__version__"}


def test_public_functions_say_what_they_do():
    for name in pr.__all__:
        thing = getattr(pr, name)
        if inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_simulate_has_the_words_of_the_command(tmp_path, capsys):
    words = ["simulate", tmp_path / "scan.npz", "--N", 32, "--object-size", 80, "--n-patterns", 30, "--seed", 5]
    told(words, capsys)
    made, read = pr.simulate(N=32, object_size=80, n_patterns=30, seed=5), pr.load(tmp_path / "scan.npz")
    np.testing.assert_allclose(made.patterns.intensity(), read.patterns.intensity(), rtol=1e-5)
    electrons = pr.simulate(electrons=True, N=32, semiangle_mrad=15, raster=(8, 8), thickness_angstrom=20, phonons=0)
    assert electrons.electrons


def test_info_is_that_of_the_command(scan_file, refined, tmp_path, capsys):
    assert jsonable(pr.info(scan_file)) == told(["info", scan_file], capsys)
    place = pr.save(refined, tmp_path / "image")
    assert jsonable(pr.info(place)) == told(["info", place], capsys)
    of_memory = pr.info(pr.load(scan_file))
    assert of_memory["patterns"] == 60
    assert of_memory["verdict"].startswith("a scan of 60 patterns")
    assert pr.info("pretrained")["kind"] == "trained model"


def test_refine_evaluate_and_compare_are_those_of_the_commands(scan_file, tmp_path, capsys):
    options = [word for name, value in SOLVER.items() for word in (f"--{name}", value)]
    theirs = told(["refine", scan_file, "--output-dir", tmp_path / "image", *options], capsys)
    ours = pr.refine(scan_file, progress=False, **SOLVER)
    with np.load(tmp_path / "image" / "reconstruction.npz") as saved:
        np.testing.assert_allclose(ours.image, saved["object"], atol=1e-5)
    assert ours.refinement.history[-1].loss == pytest.approx(theirs["last_loss"], rel=1e-4)
    judged = told(["evaluate", tmp_path / "image", scan_file], capsys)
    mine = pr.evaluate(tmp_path / "image", scan_file)
    assert jsonable(mine["diffraction"]) == judged["diffraction"]
    assert jsonable(mine["truth"]) == judged["truth"]
    in_memory = pr.evaluate(ours)
    assert in_memory["diffraction"]["r_factor"] == pytest.approx(judged["diffraction"]["r_factor"], rel=1e-3)
    rows = told(["compare", tmp_path / "image", "--truth", scan_file, "--output-dir", tmp_path / "comparison"], capsys)[
        "images"
    ]
    found = pr.compare({"image": tmp_path / "image"}, truth=pr.load(scan_file))
    assert jsonable(found) == rows
    words = ["compare", tmp_path / "image", "--scan", scan_file, "--output-dir", tmp_path / "with_the_scan"]
    assert jsonable(pr.compare({"image": tmp_path / "image"}, scan=scan_file)) == told(words, capsys)["images"]
    raw = pr.load(scan_file)  # in memory, too, the image is judged with the probe that was found with it
    mine = pr.refine(raw, progress=False, **SOLVER)
    (row,) = pr.compare({"image": mine}, scan=raw)
    assert row["r_factor"] == pytest.approx(judged["diffraction"]["r_factor"], rel=1e-3)


def test_orient_is_that_of_the_command(scan_file, capsys):
    few = {"most_patterns": 30, "most_passes": 2}
    theirs = told(["orient", scan_file, "--most-patterns", 30, "--most-passes", 2], capsys)
    assert jsonable(pr.orient(scan_file, **few)) == {name: v for name, v in theirs.items() if name != "file"}


def test_refine_goes_on_from_an_image(small_scan, refined):
    again = pr.refine(small_scan, refined, progress=False, **SOLVER)
    assert again.refinement.history[0].loss < refined.refinement.history[0].loss


def test_an_array_and_a_file_are_images_too(small_scan, refined, tmp_path):
    rows = pr.compare([refined, refined.image], truth=small_scan)
    assert [row["image"] for row in rows] == ["image 1", "image 2"]
    with pytest.raises(ConfigurationError, match=r"image: found an array of float32 .*expected a reconstruction"):
        pr.compare([refined.amplitude, refined.image])


def test_save_and_show(small_scan, refined, tmp_path):
    assert len(pr.load(pr.save(small_scan, tmp_path / "tike.npz", to="tike"))) == 60
    saved = pr.save(refined, tmp_path / "image")
    for thing in (small_scan, pr.probe(small_scan), small_scan.probe, refined, refined.image, saved, pr.example()):
        assert pr.show(thing).axes
    with pytest.raises(ConfigurationError, match="thing: found int; expected a scan"):
        pr.save(5, tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["measured", "simulated"])
def test_the_scans_of_the_package_have_nothing_odd(name):
    told = pr.info(pr.example(name))
    assert told["suspected_problems"] == "none"
    assert (told["truth"] is None) is (name == "measured")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scan: pr.load("x", swapxy=True), "swapxy: unknown setting. Did you mean 'swap_xy'?"),
        (lambda scan: pr.load(5), "path: found int 5; expected the name of a file"),
        (lambda scan: pr.reconstruct(np.ones((3, 4, 4))), "scan: found an array of float64 (3, 4, 4)"),
        (lambda scan: pr.reconstruct(scan, nepoch=3), "argument: nepoch: unknown setting. Did you mean 'nepochs'?"),
        (lambda scan: pr.refine(scan, iteration=3), "iteration: unknown setting. Did you mean 'iterations'?"),
        (lambda scan: pr.refine(scan, iterations=-1), "iterations: found -1; expected an integer of at least 1"),
        (lambda scan: pr.simulate(n_pattern=3), "n_pattern: unknown setting. Did you mean 'n_patterns'?"),
        (lambda scan: pr.train(scan, architecture="cn"), "Did you mean 'cnn'?"),
        (lambda scan: pr.compare([np.ones((4, 4), complex)]), "images: found 1; expected two"),
        (lambda scan: pr.example("star"), "name: found 'star'; expected one of 'measured', 'simulated'"),
    ],
)
def test_errors_name_argument_found_and_expected(call, message, small_scan):
    with pytest.raises(InputError, match=re.escape(message)):
        call(small_scan)


def test_the_type_hints_are_for_others_too():
    assert (Path(inspect.getfile(pr)).parent / "py.typed").is_file()
