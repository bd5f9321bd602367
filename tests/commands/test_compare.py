"""``ptycho-ray compare``: images of ours, of trained models and of other programs in one table."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.comparison import Placed, compare, figures_of
from ptycho_ray.reconstruction.stitching import StitchedObject

FACTOR = 1.7 * np.exp(0.9j)


@pytest.fixture
def scan(small_scan, tmp_path):
    path = tmp_path / "scan.npz"
    small_scan.to_file(path)
    return path


def rows_of(words, capsys):
    capsys.readouterr()
    assert main([*(str(word) for word in words), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    return {row["image"]: row for row in told["images"]}, told


def canvas_of_another_program(truth, pad=9):
    """The truth on a larger canvas of ones, times a factor."""
    canvas = np.ones(np.array(truth.shape) + 2 * pad, complex)
    canvas[pad:-pad, pad:-pad] = FACTOR * truth
    return canvas.astype(np.complex64)


def test_images_of_other_programs_are_found_by_registration(small_scan, scan, tmp_path, capsys):
    truth, positions = small_scan.object_truth, small_scan.positions_px
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "arm.npz", reconstructed_object=canvas_of_another_program(truth), algorithm="DM")
    with h5py.File(tmp_path / "result.ptyr", "w") as file:
        file["content/obj/Sscan/data"] = canvas_of_another_program(truth)[None, 3:]
        file["content/probe/Sscan/data"] = small_scan.probe
    with h5py.File(tmp_path / "product.h5", "w") as file:
        noisy = canvas_of_another_program(truth, 20) + 0.02 * rng.standard_normal((120, 120))
        file["object"], file["probe"] = noisy[None].astype(np.complex64), small_scan.probe[None]
        file["object"].attrs.update(pixel_width_m=1e-8, pixel_height_m=1e-8, center_x_m=0.0, center_y_m=0.0)
        metres = 1e-8 * (positions - (np.array(truth.shape) - 1) / 2 - 0.5)
        file["probe_position_y_m"], file["probe_position_x_m"] = metres.T
        file["probe_position_indexes"] = np.arange(len(positions))
    folder = tmp_path / "out"
    images = [tmp_path / name for name in ("arm.npz", "result.ptyr", "product.h5")]
    rows, told = rows_of(["compare", *images, "--truth", scan, "--output-dir", folder], capsys)
    assert list(rows) == ["arm", "result", "product"]
    assert told["reference"] == "scan"
    assert rows["arm"]["amplitude_mae"] < 0.01
    assert rows["result"]["phase_mae"] < 0.01
    assert abs(rows["result"]["shift_row_px"]) > 1
    assert 0.001 < rows["product"]["amplitude_mae"] < 0.01
    with (folder / "metrics.csv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    for part in ("amplitude", "phase"):
        for name in ("mae", "mse", "psnr", "ssim", "ms_ssim", "frc50"):
            assert float(table[2][f"{part}_{name}"]) == pytest.approx(rows["product"][f"{part}_{name}"])
    assert {path.name for path in folder.iterdir()} >= {"comparison_images.png", "comparison.html", "frc_curves.csv"}
    with np.load(folder / "aligned.npz", allow_pickle=False) as arrays:
        aligned = np.abs(arrays["arm/image"] - arrays["arm/reference"])[arrays["arm/compared"]]
        assert float(aligned.mean()) < 0.02


@pytest.mark.slow
def test_a_trained_model_is_applied_to_the_scan(small_scan, scan, tmp_path, capsys):
    model = tmp_path / "model"
    words = ["--n-filters-scale", "1", "--nepochs", "1", "--batch-size", "8", "--output-dir", str(model)]
    assert main(["train", str(scan), *words]) == 0
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "recon.npz", object=small_scan.object_truth)
    images = [model / "wts.h5.zip", tmp_path / "other" / "recon.npz"]
    words = ["compare", *images, "--scan", scan, "--n-subsample", "30", "--output-dir", tmp_path / "out"]
    rows, _ = rows_of(words, capsys)
    network, truth = rows["model"], rows["recon"]
    assert network["seconds"] > 0
    assert truth["r_factor"] < network["r_factor"]
    assert truth["amplitude_mae"] < network["amplitude_mae"]
    assert main(["compare", str(model / "wts.h5.zip"), "--truth", str(scan)]) == 2
    assert "--scan SCAN" in capsys.readouterr().err


def test_images_against_each_other(rng, tmp_path, capsys):
    image = rng.uniform(0.5, 1, (64, 64)) * np.exp(1j * rng.uniform(-0.5, 0.5, (64, 64)))
    for name, pixels in (("a", image), ("b", FACTOR * image)):
        weight = np.ones(pixels.shape, np.float32)
        (tmp_path / name).mkdir()
        StitchedObject(pixels.astype(np.complex64), weight, (3.0, 4.0)).save(tmp_path / name / "reconstruction.npz")
    words = ["compare", tmp_path / "a", tmp_path / "b", "--output-dir", tmp_path / "out"]
    rows, told = rows_of(words, capsys)
    assert (told["reference"], list(rows)) == ("a", ["b"])
    assert rows["b"]["amplitude_mae"] < 1e-4


def test_what_cannot_be_compared_is_named(rng, tmp_path, capsys):
    image = np.exp(1j * rng.uniform(-0.5, 0.5, (64, 64)))
    everywhere = np.ones(image.shape, bool)
    with pytest.raises(InputError, match="theirs"):
        compare({"theirs": Placed(image, everywhere, (500.0, 0.0))}, Placed(image, everywhere))
    assert figures_of(compare({"same": Placed(image, everywhere)}, Placed(image, everywhere))["same"])["pixels"] > 3000
    np.savez(tmp_path / "real.npz", object=np.ones((64, 64)))
    np.savez(tmp_path / "good.npz", object=image)
    for words, message in (
        (["good.npz", "real.npz"], "a complex image"),
        (["good.npz", "good.npz"], "twice"),
        (["good.npz", "nowhere.npz"], "nowhere.npz"),
        ([], "found 0 images"),
    ):
        assert main(["compare", *(str(tmp_path / word) for word in words)]) == 2
        assert message in capsys.readouterr().err
