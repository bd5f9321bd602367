"""The program: help, results for people and machines, exit codes, and one small scan taken through all commands."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

from ptycho_ray.bundle import load_bundle
from ptycho_ray.commands.cli import COLLECT_AFTER, COMMANDS, as_text, main
from ptycho_ray.data import load_data
from ptycho_ray.errors import TrainingInterrupted
from ptycho_ray.files import jsonable
from ptycho_ray.models.registry import ARCHITECTURES

SMALL = ["--N", "32", "--object-size", "80", "--n-patterns", "40", "--photons", "1e5"]


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PTYCHO_RAY_NEPOCHS", "PTYCHO_RAY_N", "PTYCHO_RAY_N_GROUPS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    assert main(["simulate", str(path), *SMALL]) == 0
    return path


@pytest.fixture(scope="module")
def model(scan: Path) -> Path:
    folder = scan.parent / "model"
    settings = scan.parent / "run.yaml"
    settings.write_text("nepochs: 1\nbatch_size: 8\nmodel: {n_filters_scale: 1}\n", encoding="utf-8")
    words = ["train", str(scan), "--config", str(settings), "--nepochs", "2", "--output-dir", str(folder)]
    assert main(words) == 0
    return folder


def run(words: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(words: list[Any], capsys: pytest.CaptureFixture[str]) -> Any:
    code, out, err = run([*words, "--json"], capsys)
    assert code == 0, err
    return json.loads(out)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"Example: ptycho-ray {command}" in text
    assert "--json" in text


def test_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([], capsys)
    assert (code, out) == (2, "")
    assert "commands:" in err


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trian"], capsys) == (2, "", "ptycho-ray: there is no command 'trian'; did you mean 'train'?\n")


def test_unknown_option(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", str(scan), "--nepoch", "3"])
    assert left.value.code == 2
    assert "--nepochs" in capsys.readouterr().err


def test_simulate_repeats_with_its_seed(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again, other = tmp_path / "again.npz", tmp_path / "other.h5"
    told = run_json(["simulate", again, *SMALL], capsys)
    run_json(["simulate", other, *SMALL, "--seed", "1"], capsys)
    assert (told["patterns"], told["N"], told["truth"], told["counts_are_photons"]) == (40, 32, [80, 80], True)
    first, second, third = (load_data(path) for path in (scan, again, other))
    np.testing.assert_array_equal(first.patterns.intensity(), second.patterns.intensity())
    np.testing.assert_array_equal(first.probe, third.probe)
    assert not np.array_equal(first.patterns.intensity(), third.patterns.intensity())


@pytest.mark.parametrize("option", ["--object-size", "--photons", "--n-patterns"])
def test_simulate_refuses_nonsense(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["simulate", tmp_path / "a.npz", option, "0"], capsys)
    assert code == 2
    assert option[2:].replace("-", "_") in err
    assert list(tmp_path.iterdir()) == []


def test_info_of_a_scan(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_json(["info", scan], capsys)
    assert (told["kind"], told["patterns"], told["N"], told["probe_modes"]) == ("scan", 40, 32, 1)
    code, out, _ = run(["info", scan], capsys)
    assert code == 0
    assert out.startswith("a scan of 40 patterns of 32 x 32 pixels; ")
    assert "photons each" in out


def test_info_of_all_architectures(capsys: pytest.CaptureFixture[str]) -> None:
    told = run_json(["info", "--architectures", "--N", "32", "--gridsize", "2"], capsys)
    rows = {row["architecture"]: row for row in told["architectures"]}
    assert rows.keys() == ARCHITECTURES.keys()
    assert rows["cnn"]["flops"] > rows["ffno"]["flops"] > 0
    for words in (["info"], ["info", "scan.npz", "--architectures"]):
        code, _, err = run(words, capsys)
        assert code == 2
        assert "--architectures" in err


def test_convert_there_and_back(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_json(["convert", scan, tmp_path / "scan.h5", "--swap-xy"], capsys)
    run_json(["convert", tmp_path / "scan.h5", tmp_path / "back.npz", "--swap-xy", "--coord-scale", "1.0"], capsys)
    first, back = load_data(scan), load_data(tmp_path / "back.npz")
    np.testing.assert_allclose(first.positions_px, back.positions_px)
    np.testing.assert_allclose(first.patterns.intensity(), back.patterns.intensity(), rtol=1e-5)


def test_train_writes_model_image_and_report(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = {path.name for path in model.iterdir()}
    assert written >= {"wts.h5.zip", "reconstruction.npz", "report.html", "result.json", "history.json"}
    told = run_json(["info", model], capsys)
    config = told["config"]
    assert (config["nepochs"], config["batch_size"], config["model"]["n_filters_scale"]) == (2, 8, 1)
    # Nobody gave N and n_groups: they are those of the file.
    assert (config["model"]["N"], config["n_groups"]) == (32, 40)
    assert told["training"]["epochs"] == 2
    assert told["network"]["architecture"] == "cnn"
    assert told["network"]["parameters"] == sum(p.numel() for p in load_bundle(model).model.network.parameters())
    assert told["network"]["flops"] > 1e6
    given = told["provenance"]["settings_given"]
    assert given["nepochs"] == "command line"
    assert given["batch_size"].endswith("run.yaml")
    result = json.loads((model / "result.json").read_text(encoding="utf-8"))
    assert result["held_out_diffraction"]["r_factor"] > 0


def test_settings_that_were_given_are_kept(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["train", scan, "--N", "64", "--output-dir", tmp_path / "m"], capsys)
    assert code == 2
    assert "N" in err
    words = [
        "train",
        scan,
        "--n-groups",
        "16",
        "--nepochs",
        "1",
        "--n-filters-scale",
        "1",
        "--output-dir",
        tmp_path / "m",
    ]
    run_json(words, capsys)
    assert run_json(["info", tmp_path / "m"], capsys)["config"]["n_groups"] == 16


def test_resume_goes_on(scan: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_json(
        ["train", scan, "--config", scan.parent / "run.yaml", "--nepochs", "3", "--resume", "--output-dir", model],
        capsys,
    )
    assert told["training"]["epochs"] == 3
    code, _, err = run(["train", scan, "--resume", "--output-dir", scan.parent / "empty"], capsys)
    assert code == 2
    assert "--resume" in err


def test_reconstruct_with_debug_keeps_the_patches(scan: Path, model: Path, tmp_path: Path) -> None:
    words = ["reconstruct", str(scan), "--model-path", str(model), "--output-dir", str(tmp_path), "--debug"]
    assert main(words) == 0
    with np.load(tmp_path / "patches.npz", allow_pickle=False) as arrays:
        assert arrays["obj_tensor_full"].shape == (40, 32, 32, 1)
        assert arrays["global_offsets"].shape == (40, 1, 2, 1)


def test_reconstruct_evaluate_compare(scan: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, comparison = scan.parent / "image", scan.parent / "comparison"
    told = run_json(["reconstruct", scan, "--model-path", model, "--output-dir", image], capsys)
    assert told["patterns"] == 40
    page = (image / "report.html").read_text(encoding="utf-8")
    probe = "The probe: brightness is amplitude, colour is phase."
    assert re.findall(r'alt="([^"]*)"', page) == ["Amplitude and phase.", probe, "Positions."]
    given = json.loads((image / "result.json").read_text(encoding="utf-8"))["provenance"]["settings_given"]
    assert given == dict.fromkeys(["test_data_file", "model_path", "output_dir"], "command line")
    with np.load(image / "reconstruction.npz", allow_pickle=False) as arrays:
        assert list(arrays["object"].shape) == told["shape"]
    assert run_json(["info", image], capsys)["kind"] == "reconstructed image"

    told = run_json(["evaluate", image, scan], capsys)
    assert 0 < told["diffraction"]["r_factor"] < 1
    assert 0 < told["truth"]["amplitude"]["mae"] < 1
    assert (image / "evaluation.html").is_file()
    assert (image / "evaluation_images.png").is_file()

    told = run_json(["compare", image, model, "--truth", scan, "--output-dir", comparison], capsys)
    assert [row["image"] for row in told["images"]] == ["image", "model"]
    assert (comparison / "comparison.html").is_file()
    assert run(["compare", image, model, "--output-dir", comparison], capsys)[0] == 2  # it holds a result
    told = run_json(["compare", image, model, "--output-dir", comparison, "--overwrite"], capsys)
    assert [row["image"] for row in told["images"]] == ["model"]


def test_the_truth_explains_the_data_best(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_json(["evaluate", scan, scan, "--exact", "--output-dir", tmp_path], capsys)
    diffraction = told["diffraction"]
    assert diffraction["r_factor"] < 0.8 * diffraction["r_factor_of_a_flat_object"]
    assert told["truth"]["amplitude"]["mae"] == pytest.approx(0, abs=1e-5)


def test_evaluate_needs_no_truth(scan: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(scan, allow_pickle=False) as arrays:
        blind = {name: arrays[name] for name in arrays.files if name not in ("objectGuess", "Y")}
    np.savez(tmp_path / "blind.npz", **blind)
    told = run_json(["evaluate", model, tmp_path / "blind.npz", "--output-dir", tmp_path], capsys)
    assert "truth" not in told
    assert told["diffraction"]["patterns"] == 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "train_data_file: found nothing; expected the scan to train on"),
        (["train", "nowhere.npz"], "nowhere.npz"),
        (["train", "nowhere.npz", "--batch-size", "3"], "batch_size: found 3; expected a power of two"),
        (["train", "nowhere.npz", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["reconstruct"], "test_data_file: found nothing"),
        (["reconstruct", "nowhere.npz", "--model-path", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "nowhere.npz"], "nowhere"),
        (["compare", "a"], "found 1 images; expected two, or one and --truth, or --scan"),
        (["info", "nowhere.npz"], "nowhere.npz"),
        (["convert", "nowhere.npz", "b.h5"], "nowhere.npz"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(words, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("ptycho-ray: ")
    assert err.count("\n") == 1
    assert message in err
    code, out, _ = run([*words, "--json"], capsys)
    assert code == 2
    assert json.loads(out)["exit_code"] == 2
    assert message in json.loads(out)["error"]


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["info", "nowhere.npz", "--debug"], capsys)
    assert code == 2
    assert "Traceback" in err


def command_that(action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptycho_ray.commands.info.run", lambda words: action())


def raising(error: BaseException) -> Callable[[], Any]:
    def action() -> Any:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (RuntimeError("out of memory"), 1, "out of memory"),
        (ArithmeticError("the loss became nan"), 1, "the loss became nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (TrainingInterrupted(Path("out/last.safetensors")), 130, "out/last.safetensors; add --resume"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(raising(error), monkeypatch)
    found, out, err = run(["info", "x", "--json"], capsys)
    assert found == code
    assert message in err
    assert "Traceback" not in err
    assert json.loads(out)["exit_code"] == code


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that(raising(KeyError("bug")), monkeypatch)
    with pytest.raises(KeyError):
        main(["info", "x"])


def test_json_keeps_standard_output_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> Any:
        print("chatter")
        warnings.warn("mind the gap", stacklevel=1)
        return {
            "mean": np.float32(0.5),
            "bad": float("nan"),
            "path": Path("a"),
            "shape": (1, np.int64(2)),
            "x": np.ones(2),
        }

    command_that(action, monkeypatch)
    code, out, err = run(["info", "x", "--json"], capsys)
    assert code == 0
    assert json.loads(out) == {"mean": 0.5, "bad": None, "path": "a", "shape": [1, 2], "x": [1.0, 1.0]}
    assert err == "chatter\nwarning: mind the gap\n"


def test_text_of_a_result() -> None:
    result = {
        "a": 1.23456789,
        "long name": None,
        "flags": [True, 2],
        "inner": {"b": "x"},
        "rows": [{"k": 1}, {"m": 2.5}],
    }
    assert as_text(result) == [
        "a          1.235",
        "long name  -",
        "flags      yes, 2",
        "inner",
        "  b  x",
        "rows",
        "  k  m",
        "  1  -",
        "  -  2.5",
    ]
    assert jsonable({1: np.array([np.inf])}) == {"1": [None]}


def test_sentences_stand_in_lines_of_their_own() -> None:
    long = "neighbours overlap by half of the probe's diameter, which is little"
    assert as_text({"plan": ["2 modes", long]}) == ["plan", "  - 2 modes", f"  - {long}"]
    lines = as_text({"verdict": "; ".join([long, long]), "n": 2})
    assert [line[:9] for line in lines] == ["verdict  ", " " * 9, "n        "]
    assert max(map(len, lines)) <= 118


def test_a_closed_pipe_is_no_traceback(scan: Path) -> None:
    script = "import sys\nfrom ptycho_ray.commands.cli import main\nsys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", script, "info", str(scan)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 1
    child.stderr.close()


def test_a_command_is_not_held_up_by_searches_for_garbage(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    before = gc.get_threshold()
    monkeypatch.setattr("ptycho_ray.commands.doctor.run", lambda _: {"after": gc.get_threshold()[0]})
    assert run_json(["doctor"], capsys) == {"after": COLLECT_AFTER}
    assert gc.get_threshold() == before
