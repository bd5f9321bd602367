"""What people stumbled over who used the program for the first time, and that is tested nowhere else; docs/newcomers.md has all
of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

from ptycho_ray.commands.cli import main
from ptycho_ray.commands.evaluate import as_text
from ptycho_ray.display.figures import CYCLIC_COLOURS, PHASE_COLOURS, plot_image


def said(words: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as left:
        code = int(left.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "SCAN", "--epochs", 3], "there is no option --epochs; did you mean --nepochs?"),
        (["train", "SCAN", "--learning-rate", 3], "did you mean --execution.learning-rate?"),
        (["train"], "Type: ptycho-ray train SCAN"),
        (["convert", "SCAN", "out.xyz"], "output: found the suffix '.xyz'; expected one of .npz, .h5"),
        (
            ["convert", "SCAN", "out.h5", "--to", "velociprobe"],
            "velociprobe, which is only read; expected one of nexus, cxi",
        ),
        (["convert", "SCAN", "out.h5", "--to", "tikee"], "Did you mean 'tike'?"),
    ],
)
def test_a_mistake_is_named_with_what_to_type(
    words: list[Any],
    message: str,
    scan_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = said([scan_file if word == "SCAN" else word for word in words], capsys)
    assert code == 2
    assert message in text


@pytest.fixture(scope="module")
def odd_files(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are nearly right, with a scan ``ok.npz``."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "ok.npz").write_bytes(scan_file.read_bytes())
    with np.load(scan_file, allow_pickle=False) as arrays:
        scan = dict(arrays)
    np.savez(folder / "dark.npz", **scan | {"diff3d": np.zeros_like(scan["diff3d"])})
    np.savez(folder / "metres.npz", **scan | {name: 1e-8 * scan[name] for name in ("xcoords", "ycoords")})
    np.savez(folder / "picture.npz", picture=np.ones((20, 20), complex))
    np.savez(folder / "nan.npz", object=np.full((20, 20), np.nan, complex))
    (folder / "empty.h5").touch()
    (folder / "file").write_text("no folder", encoding="utf-8")
    (folder / "solver.yaml").write_text("iteratons: 5\n", encoding="utf-8")
    (folder / "runs").mkdir()
    (folder / "runs" / "notes.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reconstruct ok.npz --prior nowhere", "nowhere: prior: found nothing"),
        ("reconstruct ok.npz --prior file", "file: prior: found"),
        ("refine ok.npz --prior nowhere", "nowhere: prior: found nothing"),
        ("reconstruct ok.npz --plan --budget -1", "--budget: found -1.0; expected a number of seconds above 0"),
        ("refine ok.npz --config solver.yaml", "solver.yaml: iteratons: unknown setting. Did you mean 'iterations'?"),
        ("refine ok.npz --picture-every -1", "--picture-every: found -1; expected 0 or more"),
        ("refine ok.npz --from picture.npz", "picture.npz: image: found keys picture; expected a reconstruction.npz"),
        ("evaluate picture.npz ok.npz", "picture.npz: image: found keys picture; expected a reconstruction.npz"),
        ("evaluate ok.npz ok.npz --output-dir file", "file: output_dir: found a file; expected a folder"),
        ("compare ok.npz nan.npz --scan ok.npz", "nan.npz: object: found no pixel that is a number"),
        ("info runs", "runs: file: found a folder with notes.txt; expected a file"),
        ("info ok.npz --pictures file/look", "file/look: pictures: found a file; expected a folder"),
        ("reconstruct dark.npz", "no signal (all pixels are zero) in all 60 patterns"),
        ("reconstruct empty.h5", "empty.h5: found an empty file; expected a scan"),
        ("orient ok.npz --most-patterns 0", "most_patterns: found 0; expected at least 8"),
        ("simulate new.xyz", "new.xyz: output: found the suffix '.xyz'; expected one of .npz"),
    ],
)
def test_what_is_slightly_wrong_is_one_line_before_the_work(
    line: str, message: str, odd_files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd_files)
    before = {*odd_files.iterdir()}
    code, text = said(line.split(), capsys)
    assert code == 2
    assert message in text
    assert "iteration 1" not in text
    assert {*odd_files.iterdir()} == before


def test_positions_in_metres_are_read_by_what_the_error_says(odd_files: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(odd_files)
    code, text = said(["reconstruct", "metres.npz", "--plan"], capsys)
    assert code == 2
    typed = re.search(r"Type: ptycho-ray (.*) METRES", text)
    assert typed is not None
    assert main([*typed[1].split(), "1e-8"]) == 0
    assert "60 patterns" in " ".join(capsys.readouterr().out.split())


def in_a_new_process(words: list[str]) -> tuple[str, set[str]]:
    """What a command says on standard error, and which slow packages it has loaded."""
    code = f"import sys; from ptycho_ray.commands.cli import main; main({words!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stderr, {"torch", "scipy.stats", "matplotlib", "jinja2"} & set(done.stdout.splitlines()[-1].split())


def test_a_missing_scan_is_named_before_torch_is_loaded() -> None:
    text, loaded = in_a_new_process(["train", "nowhere.npz"])
    assert "nowhere.npz: file: found nothing" in text
    assert not loaded


def test_info_needs_no_torch(scan_file: Path) -> None:
    assert in_a_new_process(["info", str(scan_file)]) == ("", set())


def test_evaluate_says_it_in_a_few_lines_with_units() -> None:
    of = {"mae": 0.03, "ssim": 0.9, "psnr": 20.0}
    result: dict[str, Any] = {
        "diffraction": {
            "r_factor": 0.1, "r_factor_of_a_flat_object": 0.5, "r_factor_of_noise": 0.09, "times_noise": 1.2, "patterns": 7,
        },
        "truth": {"amplitude": of, "phase": of, "frc": {"frc50_resolution_px": 1.5}},
        "pixel_size_m": 2e-8,
        "report": "x.html",
    }  # fmt: skip
    text = "\n".join(as_text(result))
    assert "as far as the noise allows: 1.20 times the photon noise on 7 patterns" in text
    assert "phase        mean error 0.0300 rad" in text
    assert "resolution   30 nm half period" in text
    assert len(text.splitlines()) < 10


def test_a_scan_is_a_start_where_it_holds_an_object(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["refine", scan_file, "--from", scan_file, "--iterations", 1, "--output-dir", tmp_path / "image", "--json"]
    assert said(words, capsys)[0] == 0


def test_a_wrapped_phase_has_a_cyclic_map() -> None:
    phase = np.linspace(-3.1, 3.1, 400).reshape(20, 20)
    assert plot_image(phase, kind="phase").axes[0].images[0].get_cmap().name == CYCLIC_COLOURS
    assert plot_image(phase / 4, kind="phase").axes[0].images[0].get_cmap().name == PHASE_COLOURS


def test_pictures_of_a_run_have_a_bar_in_nm(small_scan: Any, tmp_path: Path) -> None:
    from ptycho_ray.display.outputs import save_outputs

    drawn: list[Any] = []
    image = np.ones((40, 40, 1), dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptycho_ray.display.figures.save_figure", lambda figure, path: drawn.append(figure))
        save_outputs(image, image, {"pixel_size_m": 2e-8}, tmp_path)
    assert [[text.get_text() for text in figure.axes[0].texts] for figure in drawn] == [["100 nm"], ["100 nm"]]


def test_every_test_of_the_page_exists() -> None:
    page = (ROOT / "docs" / "newcomers.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page)) - {"test_image"}
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert len(named) > 30
    assert named <= there
    assert len(re.findall(r"^\| \d+ \|", page, flags=re.MULTILINE)) == 45
