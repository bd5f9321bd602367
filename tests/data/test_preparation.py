"""Raw detector frames become the scan that was simulated, and the file says what was done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.inspection import beam_centre, dead_pixels, hot_pixels
from ptycho_ray.data.prepared import FrameSteps, cropped_probe, narrowed_probe
from ptycho_ray.errors import InputError
from ptycho_ray.simulation import make_object, make_probe, make_scan, simulate_scan

N, H, W = 32, 50, 64
BEAM = (22, 37)  # where the direct beam falls on the detector
ENERGY, DISTANCE, DETECTOR = 8e3, 1.0, 75e-6
PIXEL = 1.23984198e-6 / ENERGY * DISTANCE / (N * DETECTOR)


@pytest.fixture(scope="module")
def scan() -> RawData:
    rng = np.random.default_rng(5)
    image = make_object("dead_leaves", (88, 88), rng)
    probe = make_probe("zernike", N, rng, photons=1e6)
    positions = make_scan("fermat", (88, 88), N, rng, n_patterns=100)
    return simulate_scan(image, probe.astype(np.complex64), positions, rng=rng)


def detector_frames(scan: RawData) -> np.ndarray:
    """The patterns on a larger detector, with an even background of 3 counts."""
    frames = np.full((len(scan), H, W), 3, dtype=np.uint32)
    corner = (BEAM[0] - N // 2, BEAM[1] - N // 2)
    frames[:, corner[0] : corner[0] + N, corner[1] : corner[1] + N] += scan.patterns.intensity().astype(np.uint32)
    return frames


def write(path: Path, frames: np.ndarray, scan: RawData, positions: np.ndarray | None = None) -> Path:
    with h5py.File(path, "w") as file:
        file["data"] = frames
        file["positions_m"] = (scan.positions_px if positions is None else positions) * PIXEL
        file["probe"] = scan.probe
        file.attrs.update({"energy_eV": ENERGY, "detector_distance_m": DISTANCE, "detector_pixel_m": DETECTOR})
    return path


def prepare(words: list[Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["prepare", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_frames_become_the_scan_again(scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = detector_frames(scan)
    frames[:, 5, 60] = 70_000  # hot
    frames[:, BEAM[0] + 2, BEAM[1] + 1] = 0  # dead, in the beam
    frames[:, 10, 30] = 2**32 - 1  # marked by the detector
    raw = write(tmp_path / "raw.h5", frames, scan)
    told = prepare(
        [raw, tmp_path / "scan.h5", "--size", N, "--background", 3, "--centre", *BEAM, "--detector-pixel-m", DETECTOR],
        capsys,
    )
    assert told["prepared"]["bad_pixels"] == {"bad": 1, "hot": 1, "dead": 1}
    made = load_data(tmp_path / "scan.h5")
    assert made.bad_pixels is not None
    bad = np.zeros((N, N), dtype=bool)
    bad[N // 2 + 2, N // 2 + 1] = bad[10 - BEAM[0] + N // 2, 30 - BEAM[1] + N // 2] = True
    np.testing.assert_array_equal(made.bad_pixels, bad)
    expected = scan.patterns.intensity()
    expected[:, bad] = 0
    np.testing.assert_allclose(made.patterns.intensity(), expected, rtol=1e-5)
    np.testing.assert_allclose(made.positions_px, scan.positions_px, rtol=1e-5)
    assert made.pixel_size_m == pytest.approx(PIXEL)
    assert made.metadata is not None
    assert told["not_held_by_this_format"] == []
    record = made.metadata["prepared"]
    assert record["frames"]["centre"] == list(map(float, BEAM))
    assert record["input"] == "raw.h5"
    assert len(record["sha256"]) == 64
    names = sorted(path.name for path in (tmp_path / "scan_prepare").iterdir())
    assert names == ["1_bad_pixels.png", "2_background.png", "3_window.png", "4_patterns.png", "7_positions.png"]


def test_the_beam_and_the_background_are_found(
    scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write(tmp_path / "raw.h5", detector_frames(scan), scan)
    told = prepare([raw, tmp_path / "scan.h5", "--background", "auto"], capsys)["prepared"]["frames"]
    np.testing.assert_allclose(told["centre"], BEAM, atol=1.0)
    assert told["background"] == pytest.approx(3.0, abs=0.2)
    assert told["side"] == 32  # 50 rows hold no more


def test_info_of_an_uncropped_detector(scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(tmp_path / "raw.h5", detector_frames(scan), scan)
    assert main(["info", str(raw), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["frames"]) == ("part of a scan", [len(scan), H, W])
    assert told["missing"] == ["square patterns, cropped around the beam"]
    assert re.fullmatch(r"Type: ptycho-ray prepare \S+ scan\.h5", told["next"])
    assert main(["train", str(raw)]) == 2
    assert "expected square patterns" in capsys.readouterr().err


def test_binning_and_detector_orientation(scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Patterns that were spread over 2 x 2 pixels each, transposed and turned upside down, come back."""
    counts = scan.patterns.intensity().astype(np.uint32)
    spread = np.zeros((len(scan), 2 * N + 6, 2 * N + 8), np.uint32)
    spread[:, 4 : 4 + 2 * N : 2, 6 : 6 + 2 * N : 2] = counts  # all into one of the four: the sum is what counts
    stored = np.ascontiguousarray(spread[:, ::-1].swapaxes(1, 2))
    raw = write(tmp_path / "raw.h5", stored, scan)
    beam = (4 + N, 6 + N)
    options = ["--transpose", "--flip-rows", "--binning", 2, "--size", N, "--centre", *beam, "--keep-suspects"]
    prepare([raw, tmp_path / "scan.h5", *options], capsys)
    made = load_data(tmp_path / "scan.h5")
    np.testing.assert_allclose(made.patterns.intensity(), counts, rtol=1e-5)
    assert made.detector_pixel_m == pytest.approx(2 * DETECTOR)


def test_rotation_and_orientation_are_found(scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Positions stored with exchanged axes, one sign wrong and turned by 3 degrees are put right."""
    from ptycho_ray.refinement.rotation import turned

    wrong = turned(scan.positions_px, -3.0)
    wrong = np.stack([wrong[:, 1], -wrong[:, 0]], axis=1)
    raw = write(tmp_path / "raw.h5", scan.patterns.intensity().astype(np.uint32), scan, wrong)
    told = prepare(
        [raw, tmp_path / "scan.h5", "--centre", N // 2, N // 2, "--find-orientation", "--find-rotation"], capsys
    )["prepared"]["positions"]
    assert told["orientation_undecided"] is None
    assert told["found_rotation_deg"] == pytest.approx(3.0, abs=0.3)
    assert told["rotation_decided"]
    made = load_data(tmp_path / "scan.h5")
    off = made.positions_px - scan.positions_px
    np.testing.assert_allclose(off - off.mean(axis=0), 0, atol=0.3)
    assert (tmp_path / "scan_prepare" / "5_orientation.png").is_file()
    assert (tmp_path / "scan_prepare" / "6_rotation.png").is_file()


def test_a_window_beyond_the_detector_is_bad_there() -> None:
    steps = FrameSteps(centre=(2.0, 4.0), side=8)
    frames = np.arange(64.0).reshape(1, 8, 8)
    patterns, mask = steps.apply(frames, np.zeros((8, 8), bool)), steps.mask(np.zeros((8, 8), bool))
    assert mask[:2].all()
    assert not mask[2:].any()
    assert patterns[0, 4, 4] == frames[0, 2, 4]
    with pytest.raises(InputError, match="a beam on the detector"):
        FrameSteps(centre=(40.0, 4.0), side=8).apply(frames, np.zeros((8, 8), bool))


@pytest.mark.parametrize("binning", [1, 2, 3, 4])
@pytest.mark.parametrize("N", [4, 5])
def test_the_beam_comes_to_lie_on_the_middle_pixel(binning: int, N: int) -> None:
    frames = np.zeros((1, 40, 40))
    frames[0, 19, 23] = 1
    steps = FrameSteps(centre=(19.0, 23.0), side=N * binning, binning=binning)
    assert np.argwhere(steps.apply(frames, np.zeros((40, 40), bool))[0]).tolist() == [[N // 2, N // 2]]


def test_probes_follow_crop_and_binning(rng: np.random.Generator) -> None:
    probe = make_probe("gaussian", 64, rng, photons=1e4).astype(np.complex64)
    coarse = cropped_probe(probe, 32)
    assert np.sum(np.abs(coarse) ** 2) == pytest.approx(1e4, rel=1e-3)  # the photons all lie in the middle
    np.testing.assert_allclose(coarse[0] / 2, probe[0, ::2, ::2], atol=1e-3 * np.abs(probe).max())
    np.testing.assert_allclose(cropped_probe(coarse, 64), probe, atol=1e-3 * np.abs(probe).max())
    np.testing.assert_array_equal(narrowed_probe(probe, 32), probe[:, 16:48, 16:48])


def test_an_oriented_probe_diffracts_as_the_oriented_pattern(rng: np.random.Generator) -> None:
    wave = rng.normal(size=(8, 8)) + 1j * rng.normal(size=(8, 8))
    steps = FrameSteps(transpose=True, flip_rows=True, flip_columns=False, centre=(4.0, 4.0), side=8)

    def pattern(wave: np.ndarray) -> np.ndarray:
        return np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)

    expected = np.roll(steps.oriented(pattern(wave)), 1, axis=0)  # zero frequency back on N//2
    np.testing.assert_allclose(pattern(steps.oriented_probe(wave)), expected, rtol=1e-8)


def test_suspects_in_the_mean_frame(rng: np.random.Generator) -> None:
    frames = rng.poisson(20.0, (50, 16, 16)).astype(np.float32)
    assert not hot_pixels(frames).any()
    assert not dead_pixels(frames).any()
    frames[:, 3, 4], frames[:, 8, 9] = 5000, 0
    assert np.argwhere(hot_pixels(frames)).tolist() == [[3, 4]]
    assert np.argwhere(dead_pixels(frames)).tolist() == [[8, 9]]
    spot = np.zeros((16, 16))
    spot[5, 7] = 1
    assert beam_centre(spot) == (5.0, 7.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--background", "some"], "background: found 'some'"),
        (["--binning", "9"], "binning: found 9"),
        (["--size", "500"], "size: found 500"),
    ],
)
def test_bad_options(
    words: list[str], message: str, scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write(tmp_path / "raw.h5", detector_frames(scan), scan)
    assert main(["prepare", str(raw), str(tmp_path / "scan.h5"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scan.h5").exists()


def test_positions_in_pixels_of_an_oblong_detector_are_refused(
    scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["data"], file["positions_px"] = detector_frames(scan), scan.positions_px
    assert main(["prepare", str(tmp_path / "raw.h5"), str(tmp_path / "scan.h5")]) == 2
    assert "positions in metres, or square frames" in capsys.readouterr().err
