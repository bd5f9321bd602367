"""The page of a first look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.data.first_look import first_look
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.display.first_look_figures import plot_first_look


def test_the_page_shows_the_detectors_that_there_are_with_the_first_row_on_top() -> None:
    rows, columns = np.divmod(np.arange(30), 6)
    away = np.hypot(*(np.indices((24, 24)) - 12))
    frames = np.where(away < 6, 100, 1) * (1 + rows)[:, None, None]  # brighter from row to row
    frames[:, 12, 21] += 50 * columns
    scan = RawData(2.0 * columns, 3.0 * rows, None, None, frames.astype(np.uint16), np.exp(-(away**2) / 20) + 0j)
    scan.pixel_size_m = 1e-10
    look = first_look(scan)
    page = plot_first_look(scan, look, (np.exp(0.1j * np.ones((9, 9))), np.ones((9, 9), bool)))
    drawn = {axis.get_title(): axis for axis in page.axes if axis.get_title()}
    assert {"bright field", "dark field", "centre of mass, up to", "direct phase (weak object) / rad"} <= {
        name if "up to" not in name else "centre of mass, up to" for name in drawn
    }
    shown = drawn["dark field"].images[0]
    assert shown.origin == "upper"
    np.testing.assert_allclose(np.asarray(shown.get_array()), look.images["dark field"])
    assert look.images["dark field"].shape == (5, 6)
    assert drawn["dark field"].get_aspect() == pytest.approx(1.5)
    labels = [text.get_text() for text in drawn["bright field"].texts]
    assert labels == ["200 pm"]
    assert drawn["30 positions / nm"].yaxis_inverted()


def test_a_pattern_that_moves_to_the_right_is_red_and_one_that_moves_up_is_at_a_quarter_turn() -> None:
    rows, columns = np.divmod(np.arange(36), 6)
    row, column = np.indices((24, 24)) - 12.0
    moved = np.where(columns < 3, 1.0, -1.0)
    frames = np.exp(-((row + 0 * rows[:, None, None]) ** 2 + (column - moved[:, None, None]) ** 2) / 18)
    scan = RawData(2.0 * columns, 2.0 * rows, None, None, frames, np.exp(-(row**2 + column**2) / 20) + 0j)
    page = plot_first_look(scan, first_look(scan))
    axis = next(axis for axis in page.axes if axis.get_title().startswith("centre of mass"))
    colours = np.asarray(axis.images[0].get_array())
    right, left = colours[2, 1, :3], colours[2, 4, :3]
    assert right.argmax() == 0
    assert right[0] > 3 * max(right[1:])
    assert left.argmin() == 0


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, columns = np.divmod(np.arange(25), 5)
    away = np.hypot(*(np.indices((24, 24)) - 12))
    scan = tmp_path / "scan.npz"
    frames = np.random.default_rng(0).poisson(np.where(away < 6, 100, 1), (25, 24, 24)).astype(np.float32)
    RawData(2.0 * columns, 2.0 * rows, None, None, frames, np.exp(-(away**2) / 20) + 0j, domain="intensity").to_file(
        scan
    )
    assert main(["info", str(scan), "--pictures", str(tmp_path / "look"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["first_look"]
    assert (tmp_path / "look" / "first_look.png").stat().st_size > 10_000
    assert said["raster"] == [5, 5]
    assert said["disc_radius_px"] == pytest.approx(6, abs=0.5)
    assert said["bright_field_share"] > 0.9
