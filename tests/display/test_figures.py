"""Pictures and the report: what they show, and that they appear whole or not at all."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ptycho_ray import files
from ptycho_ray.display.figures import (
    plot_frc,
    plot_history,
    plot_image,
    plot_object,
    plot_objects,
    plot_positions,
    plot_probe,
    save_figure,
)
from ptycho_ray.display.report import Section, provenance, write_report


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return (1 + 0.1 * rng.random((60, 80))) * np.exp(0.3j * rng.random((60, 80)))


def texts(figure: Figure) -> str:
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    words += [axis.get_title() for axis in figure.axes]
    words += [label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel())]
    words += [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    return "\n".join(words)


def shown(figure: Figure) -> list[Any]:
    return [axis.images[0].get_array() for axis in figure.axes if axis.images]


def test_object_shows_amplitude_and_phase(image: np.ndarray) -> None:
    figure = plot_object(image, title="star")
    amplitude, phase = shown(figure)
    np.testing.assert_allclose(amplitude, np.abs(image))
    difference = np.asarray(phase) - np.angle(image)
    np.testing.assert_allclose(difference, difference[0, 0], atol=1e-12)
    assert "star amplitude" in texts(figure)
    assert "star phase / rad" in texts(figure)
    assert "10 px" in texts(figure)
    assert len(figure.axes) == 4  # two images, each with a colour bar


@pytest.mark.parametrize(
    ("pixel_size_m", "label"),
    [(1e-8, "100 nm"), (3e-8, "200 nm"), (1.5e-6, "20 µm"), (1e-10, "1 nm"), (2e-11, "200 pm"), (None, "10 px")],
)
def test_scale_bar_is_round_and_true(image: np.ndarray, pixel_size_m: float | None, label: str) -> None:
    figure = plot_object(image, pixel_size_m=pixel_size_m)
    assert label in texts(figure)
    bar = figure.axes[0].patches[0]
    number, unit = label.split()
    unit_m = {"px": pixel_size_m, "pm": 1e-12, "nm": 1e-9, "µm": 1e-6}[unit]
    assert bar.get_width() == pytest.approx(float(number) * (unit_m or 1) / (pixel_size_m or 1))
    assert 80 / 15 < bar.get_width() <= 80 / 5 * (1 + 1e-9)


def test_global_phase_does_not_change_the_picture(image: np.ndarray) -> None:
    first, second = shown(plot_object(image))[1], shown(plot_object(image * np.exp(3.1j)))[1]
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_region_is_cropped_and_does_not_set_the_colours(image: np.ndarray) -> None:
    image[0, 0] = 1e6
    region = np.zeros(image.shape, dtype=bool)
    region[10:40, 20:70] = True
    region[20, 30] = False
    figure = plot_object(image, region=region)
    amplitude = shown(figure)[0]
    assert amplitude.shape == (30, 50)
    assert amplitude.mask[10, 10]
    assert amplitude.mask.sum() == 1
    assert figure.axes[0].images[0].get_clim()[1] < 1.2


def test_comparison_has_common_colours_and_leaves_nan_blank(image: np.ndarray) -> None:
    other = 2 * image
    other[:, :5] = np.nan
    figure = plot_objects({"truth": image, "cnn": other})
    images = [axis.images[0] for axis in figure.axes if axis.images and axis.get_xlabel() == ""][:4]
    assert images[0].get_clim() == images[1].get_clim()
    assert images[2].get_clim() == images[3].get_clim()
    assert images[0].get_clim()[1] > 2
    assert images[1].get_array().shape == (60, 75)
    assert "truth" in texts(figure)
    assert "cnn" in texts(figure)


@pytest.mark.parametrize("kind", ["amplitude", "phase"])
def test_single_image(kind: Any) -> None:
    values = np.linspace(0, 1, 400).reshape(20, 20)
    np.testing.assert_allclose(shown(plot_image(values, kind=kind, title="x"))[0], values)


@pytest.mark.parametrize("values", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.ones((1, 4))])
def test_images_without_contrast_can_be_drawn(values: np.ndarray, tmp_path: Path) -> None:
    for name, figure in {"one": plot_image(values, kind="phase"), "both": plot_object(values.astype(complex))}.items():
        assert save_figure(figure, tmp_path / f"{name}.png").stat().st_size > 1000


def test_probe_modes_with_their_power(rng: np.random.Generator) -> None:
    mode = rng.random((16, 16)) + 0j
    mode /= np.linalg.norm(mode)
    figure = plot_probe(np.stack([3 * mode, mode]))
    assert "probe mode 1: 90.0%" in texts(figure)
    assert "probe mode 2: 10.0%" in texts(figure)
    assert len(shown(plot_probe(mode))) == 2  # the probe and the colour wheel
    assert len(shown(plot_probe(np.stack([mode] * 8)))) == 9  # every mode, in two rows


def test_probe_colours() -> None:
    probe = np.zeros((4, 4), dtype=complex)
    probe[0, 0], probe[1, 1], probe[2, 2] = 1, -1, 0.5
    colours = shown(plot_probe(probe))[0]
    assert colours[0, 0].argmax() == 0  # phase 0 is red
    assert colours[1, 1, 0] < 0.2  # phase pi is cyan
    assert colours[2, 2].max() == pytest.approx(0.5)
    assert not colours[3, 3].any()


def test_history() -> None:
    history = {"loss": [3.0, 2.0], "train_loss": [3.0, 2.0], "val_loss": [4.0, 3.0], "learning_rate": [1e-3, 1e-4]}
    figure = plot_history(history)
    lines = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[3.0, 2.0], [4.0, 3.0]]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    assert len({line.get_color() for line in lines}) == 1
    assert list(lines[0].get_xdata()) == [1, 2]
    assert "learning rate" in texts(figure)
    assert figure.axes[0].get_yscale() == "linear"
    assert plot_history({"loss": [100.0, 1.0]}).axes[0].get_yscale() == "log"
    assert plot_history({"loss": [100.0, -1.0]}).axes[0].get_yscale() == "linear"


def test_frc() -> None:
    frequency = np.linspace(0, 0.5, 20)
    figure = plot_frc(frequency, {"phase": 1 - frequency}, half_bit=0.3 + 0 * frequency, pixel_size_m=1e-8)
    for word in ("phase", "half-bit threshold", "1/7", "cycles per pixel", "half period / nm"):
        assert word in texts(figure) + figure.axes[0].child_axes[0].get_xlabel()


def test_positions_have_rows_downward() -> None:
    positions = np.array([[0.0, 0.0], [10.0, 20.0], [5.0, 3.0]])
    figure = plot_positions(positions)
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.collections[0].get_offsets(), positions[:, ::-1])
    assert axis.yaxis_inverted()
    assert "row / pixels" in texts(figure)
    assert "row / µm" in texts(plot_positions(positions, pixel_size_m=1e-7))


def test_nothing_is_left_of_a_figure_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(plot_image(np.ones((8, 8)), kind="phase"), tmp_path / "a.nonsense")
    assert list(tmp_path.iterdir()) == []


def test_report_is_one_file_with_everything(tmp_path: Path, image: np.ndarray) -> None:
    data = tmp_path / "scan.npz"
    data.write_bytes(b"abc")
    sections = [
        Section("Result", "a < b", facts={"loss": 0.123456, "nested": {"yes": True, "none": None, "list": [1, 2.0]}}),
        Section("Table", rows=[{"model": "cnn", "mae": 0.5}, {"model": "fno", "ssim": 0.25}]),
        Section("Image", pictures=[("the <image>", plot_object(image))]),
        Section("Origin", facts=provenance(seed=7, data_files=[data]), folded=True),
    ]
    page = write_report(tmp_path / "report.html", title="A & B", sections=sections).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for part in ("A &amp; B", "a &lt; b", "the &lt;image&gt;", "0.1235", "yes", "1, 2", "cnn", "0.25", "<details>"):
        assert part in page
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in page  # SHA-256 of abc
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["report.html", "scan.npz"]


def test_provenance_tells_versions_and_seed() -> None:
    told = provenance(seed=3)
    assert told["seed"] == 3
    assert told["packages"]["numpy"] == np.__version__
    assert told["data"] == {}


def test_a_large_file_has_the_checksum_of_the_checksums_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``split`` with a filter and ``sha256sum`` make of it: docs/distributed.md."""
    monkeypatch.setattr(files, "PART_BYTES", 4)
    contents = {"large.h5": b"0123456789", "exact.h5": b"01234567", "small.h5": b"0123", "empty.h5": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    told = provenance(data_files=[*(tmp_path / name for name in contents), tmp_path / "folder"])["data"]
    found = {Path(name).name: checksum for name, checksum in told.items()}

    def plain(*parts: bytes) -> str:
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def of(*parts: bytes) -> str:
        return "1GiB-parts:" + plain(*(hashlib.sha256(part).digest() for part in parts))

    assert found == {
        "large.h5": of(b"0123", b"4567", b"89"),
        "exact.h5": of(b"0123", b"4567"),
        "small.h5": plain(b"0123"),
        "empty.h5": plain(),
        "folder": plain(),
    }
