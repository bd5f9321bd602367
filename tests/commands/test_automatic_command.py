"""The automatic reconstruction from the command line: what is given, what is refused, and what others make of its files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers import options_of

import ptycho_ray as pr
from ptycho_ray import workflow
from ptycho_ray.commands.cli import main
from ptycho_ray.data import load_data
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.explained_image import as_refined


@pytest.fixture(scope="module")
def image(scan_file, tmp_path_factory):
    """The folder of a reconstruction, and what the command said."""
    folder = tmp_path_factory.mktemp("automatic") / "image"
    settings = ["--refinement.iterations", "7", "--refinement.object-start", "1", "--seed", "3", "--uncertainty"]
    words = ["reconstruct", str(scan_file), "--output-dir", str(folder), *settings, "--explain", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        told = []
        patch.setattr("builtins.print", lambda *words, **_: told.append(words[0]))
        assert main(words) in (0, 3)
    return folder, json.loads(told[-1])


def test_settings_of_the_solver_are_kept_and_every_trial_is_explained(image):
    folder, told = image
    kept = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    settings = kept["provenance"]["settings"]
    assert (settings["iterations"], settings["object_start"], settings["seed"]) == (7, 1, 3)
    assert told["trials"] == kept["trials"]
    assert told["trials"][0]["assumption"] == "probe of the file"
    decided = [line.partition(": ")[2] for line in told["plan"] if "of the misfit" in line]
    assert sorted(row["chosen"] for row in told["trials"] if row["chosen"]) == sorted(decided)
    assert (folder / "report.html").is_file()


def test_the_image_has_error_bars(image):
    folder, told = image
    with np.load(folder / "reconstruction.npz") as kept:
        covered = StitchedObject(kept["object"], kept["weight"], (0.0, 0.0)).covered()
        for name, fact in (("amplitude_std", "amplitude_std_median"), ("phase_std", "phase_std_rad_median")):
            assert (kept[name][covered] > 0).all()
            assert np.median(kept[name][covered]) == pytest.approx(told["uncertainty"][fact], rel=1e-5)
    assert 0 < told["uncertainty"]["half_data"]["mean"] <= 1
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert told["uncertainty"]["sentence"] in report
    assert "Fourier ring correlation" in report


@pytest.mark.slow
def test_the_scan_as_refined_is_read_by_whatever_reads_a_scan(image, scan_file, tmp_path, capsys):
    folder, told = image
    refined = folder / "refined_scan.npz"
    again = load_data(refined)
    assert len(again) == told["patterns"]
    assert as_refined(load_data(scan_file), folder).positions_px == pytest.approx(again.positions_px)
    place = ["--output-dir", str(tmp_path / "out"), "--overwrite"]
    for words in (
        ["info", str(refined)],
        ["refine", str(refined), "--iterations", "1", *place],
        ["evaluate", str(folder), str(refined), *place[:2]],
        ["compare", str(folder), "--scan", str(refined), *place],
        ["convert", str(refined), str(tmp_path / "scan.h5")],
        ["orient", str(refined)],
        ["reconstruct", str(refined), "--model-path", "pretrained", *place],
        ["train", str(refined), "--nepochs", "1", "--n-filters-scale", "1", *place],
    ):
        assert main(words) == 0, (words, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model-path", "pretrained", "--plan"], "--plan: a network decides nothing"),
        (["--model-path", "pretrained", "--seed", "0"], "leave out --seed"),
        (["--refine", "2", "--budget", "3"], "Leave out --refine"),
        (["--model-path", "pretrained", "--explain"], "Leave out --model-path"),
        (["--model-path", "pretrained", "--uncertainty"], "leave out --uncertainty"),
        (["--model-path", "pretrained", "--refinement.method", "epie"], "--refine N"),
        (["--refinement.iterations", "0"], "at least 1"),
        (["--refinement.slices", "2"], "slice_distance_px2"),
    ],
)
def test_what_would_have_no_effect_is_refused(scan_file, tmp_path, capsys, words, said):
    assert main(["reconstruct", str(scan_file), "--output-dir", str(tmp_path / "image"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "image").exists()


def test_the_image_of_a_network_is_refined_with_the_settings_that_are_given(scan_file, model_file, tmp_path):
    words = ["--model-path", str(model_file), "--refine", "2", "--refinement.check-every", "1", "--output-dir"]
    assert main(["reconstruct", str(scan_file), *words, str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["refinement"]["iterations"] == 2
    assert "held_out_r_factor" in result["refinement"]
    assert "The probe: brightness" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_refinement_that_has_nothing_to_resume_says_that_it_begins(scan_file, tmp_path, capsys):
    for iterations, anew in (("1", True), ("2", False)):
        words = ["--iterations", iterations, "--resume", "--output-dir", str(tmp_path / "image")]
        assert main(["refine", str(scan_file), *words]) == 0
        assert ("nothing to resume in" in capsys.readouterr().err) == anew


def test_a_refinement_starts_from_the_network_of_the_package(scan_file, tmp_path):
    words = ["refine", str(scan_file), "--from", "pretrained", "--iterations", "1", "--output-dir", str(tmp_path)]
    assert main(words) == 0
    assert (tmp_path / "refined_scan.npz").is_file()


def test_every_setting_of_the_solver_is_an_option_of_every_command():
    names = {field.name.replace("_", "-") for field in dataclasses.fields(RefinementConfig)}
    for command in ("reconstruct", "reconstruct-scans", "submit", "watch"):
        assert {f"--refinement.{name}" for name in names - {"seed"}} | {"--seed", "--prior"} <= options_of(command)
        assert "--refinement.seed" not in options_of(command)  # a run has one seed
    assert {f"--{name}" for name in names} <= options_of("refine")


def test_the_short_name_of_the_prior_is_the_setting(scan_file, tmp_path, monkeypatch):
    asked = []

    def core(scan, **wishes):
        asked.append(wishes["settings"])
        raise ConfigurationError("enough")

    monkeypatch.setattr(workflow, "reconstruct_scan", core)
    for option in ("--prior", "--refinement.prior"):
        words = [option, "pretrained", "--output-dir", str(tmp_path / "image")]
        assert main(["reconstruct", str(scan_file), *words]) == 2
    assert asked == [{"prior": "pretrained"}] * 2


def test_budget_and_uncertainty_reach_the_core(scan_file, small_scan, tmp_path, monkeypatch):
    asked = []

    def core(scan, **wishes):
        asked.append(wishes)
        raise ConfigurationError("enough")

    monkeypatch.setattr(workflow, "reconstruct_scan", core)
    words = [
        "reconstruct",
        str(scan_file),
        "--budget",
        "9.5",
        "--uncertainty",
        "--refinement.probe-modes",
        "2",
        "--output-dir",
    ]
    assert main([*words, str(tmp_path)]) == 2
    with pytest.raises(ConfigurationError, match="enough"):
        pr.reconstruct(
            small_scan, budget_s=9.5, uncertainty=True, refinement={"probe_modes": 2}, seed=0, progress=False
        )
    for wishes in asked:
        assert wishes["uncertainty"] is True
        assert (wishes["budget_s"], wishes["settings"], wishes["seed"]) == (9.5, {"probe_modes": 2}, 0)


def test_a_plan_does_not_decide_what_is_given(scan_file, capsys):
    given = ["--refinement.position-start", "2", "--refinement.probe-modes", "1"]
    assert main(["reconstruct", str(scan_file), "--plan", "--json", *given]) == 0
    tried = {trial["assumption"] for trial in json.loads(capsys.readouterr().out)["trials"]}
    assert not tried & {"positions refined", "2 probe modes"}


def test_a_notebook_gives_settings_of_the_solver(small_scan):
    image = pr.reconstruct(small_scan, refinement={"iterations": 6}, seed=3, progress=False)
    assert (image.automatic.config.iterations, image.automatic.config.seed) == (6, 3)
    with pytest.raises(ConfigurationError, match="iteration"):
        pr.reconstruct(small_scan, refinement={"iteration": 6})
    with pytest.raises(ConfigurationError, match="refinement"):
        pr.reconstruct(small_scan, refinement={"iterations": 6}, nepochs=1)
    with pytest.raises(ConfigurationError, match="budget_s"):
        pr.reconstruct(small_scan, budget_s=6, nepochs=1)
    with pytest.raises(ConfigurationError, match="uncertainty"):
        pr.reconstruct(small_scan, uncertainty=True, nepochs=1)
