"""Patterns that stay on disk while they are refined give what patterns in memory give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.raw_data import REFINED_POSITIONS, REFINED_PROBE, REFINED_SCAN, RawData, load_data, write_refined
from ptycho_ray.physics.propagation import FarField
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.explained_image import as_refined
from ptycho_ray.refinement.measured_amplitude import CountedAmplitude, mean_pattern, measured_amplitude, writable_copy
from ptycho_ray.refinement.solver import Refinement, refine
from ptycho_ray.refinement.streamed import StreamedAmplitude


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> RawData:
    """A scan of 64 patterns of 32 x 32 pixels in HDF5, whose frames are counts."""
    generator = np.random.default_rng(0)
    rows, columns = np.divmod(np.arange(64), 8)
    axis = np.arange(32) - 16
    probe = np.exp(-(axis[:, None] ** 2 + axis**2) / 60).astype(np.complex64)
    landscape = np.exp(0.4j * generator.normal(size=(60, 60)))
    counts = []
    for row, column in zip(3 * rows, 3 * columns, strict=True):
        wave = np.fft.fftshift(np.fft.fft2(landscape[row : row + 32, column : column + 32] * probe, norm="ortho"))
        counts.append(generator.poisson(200 * np.abs(wave) ** 2))
    file: Path = tmp_path_factory.mktemp("streamed") / "scan.h5"
    RawData(3.0 * columns, 3.0 * rows, None, None, np.array(counts, np.uint16), probe).to_file(file)
    return load_data(file)


@pytest.mark.parametrize("settings", [{}, {"method": "accelerated"}, {"position_start": 1, "background_start": 0}])
def test_the_result_is_that_of_patterns_in_memory(on_disk: RawData, settings: dict) -> None:
    config = RefinementConfig(iterations=4, held_out_fraction=0.1, check_every=2, **settings)
    streamed = refine(on_disk, dataclasses.replace(config, memory_GB=1e-6))
    held = refine(on_disk, config)
    np.testing.assert_allclose(streamed.stitched.image, held.stitched.image, atol=2e-4)
    assert streamed.history[-1].deviance == pytest.approx(held.history[-1].deviance, rel=1e-4)


def test_batches_are_read_ahead_and_what_is_asked_for_in_between_is_read_at_once(on_disk: RawData) -> None:
    arguments = (1.0, FarField(), torch.float32, torch.device("cpu"))
    streamed = measured_amplitude(on_disk.patterns, *arguments, memory_GB=1e-6)
    held = measured_amplitude(on_disk.patterns, *arguments)
    assert isinstance(streamed, StreamedAmplitude)
    assert isinstance(held, torch.Tensor)
    batches = np.array_split(np.random.default_rng(1).permutation(64), 8)
    streamed.expect(batches)
    for batch in batches:
        for rows in (batch[:3], np.array([5, 60]), batch[3:]):
            chosen = torch.as_tensor(rows)
            torch.testing.assert_close(streamed.index_select(0, chosen), held[chosen])
    assert not streamed._waiting
    known = streamed.told(
        torch.tensor([3, 4]), np.array([7, 8])
    )  # what lies on a device is not read to know the numbers
    torch.testing.assert_close(streamed.index_select(0, known), held[7:9])
    torch.testing.assert_close(mean_pattern(streamed, np.arange(64)), held.square().mean(dim=0))
    torch.testing.assert_close(writable_copy(streamed), held)


def counted_scan(on_disk: RawData, odd: float | None = None) -> RawData:
    """The scan with its frames as the detector counted them, in memory; one pixel replaced by ``odd``."""
    frames = np.round(on_disk.patterns.intensity(np.arange(64)))
    if odd is not None:
        frames[63, 5, 7] = odd
    return RawData(on_disk.xcoords, on_disk.ycoords, None, None, frames, on_disk.probe, domain="intensity")


#: GB in which its frames have room as 16 bits and not as 32.
SMALL_GB = 2e-4


@pytest.mark.parametrize("photons", [1.0, 0.37])
def test_counts_that_fit_as_16_bits_are_held_so_and_give_the_same_figures(on_disk: RawData, photons: float) -> None:
    patterns = counted_scan(on_disk).patterns
    arguments = (photons, FarField(), torch.float32, torch.device("cpu"))
    counted = measured_amplitude(patterns, *arguments, memory_GB=SMALL_GB)
    held = measured_amplitude(patterns, *arguments)
    assert isinstance(held, torch.Tensor)
    assert isinstance(counted, CountedAmplitude)
    assert counted.counts.element_size() == 2
    some = torch.tensor([3, 60, 3])
    torch.testing.assert_close(counted.index_select(0, some), held[some], rtol=0, atol=0)
    torch.testing.assert_close(mean_pattern(counted, np.arange(64)), mean_pattern(held, np.arange(64)), rtol=0, atol=0)
    assert isinstance(measured_amplitude(patterns, *arguments, small=True), CountedAmplitude)


def test_a_refinement_of_counts_of_16_bits_is_that_of_32(on_disk: RawData) -> None:
    scan, config = counted_scan(on_disk), RefinementConfig(iterations=3, held_out_fraction=0.1, check_every=1)
    small = Refinement(scan, dataclasses.replace(config, memory_GB=SMALL_GB))
    assert isinstance(small.run.kernel.amplitude, CountedAmplitude)
    large = Refinement(scan, config)
    for _ in zip(small, large, strict=True):
        pass
    np.testing.assert_array_equal(small.stitched().image, large.stitched().image)


@pytest.mark.parametrize("odd", [0.5, 70_000.0])
def test_what_is_no_count_of_16_bits_is_not_held_as_one(on_disk: RawData, odd: float) -> None:
    patterns = counted_scan(on_disk, odd).patterns
    amplitude = measured_amplitude(patterns, 1.0, FarField(), torch.float32, torch.device("cpu"), small=True)
    assert isinstance(amplitude, torch.Tensor)
    assert FarField().restore(amplitude[63])[5, 7].item() == pytest.approx(odd**0.5)


def test_frames_in_memory_are_never_streamed(on_disk: RawData) -> None:
    loaded = on_disk.select(np.arange(64))
    loaded.patterns = on_disk.patterns.loaded()
    refinement = Refinement(loaded, RefinementConfig(memory_GB=1e-6))
    assert isinstance(refinement.run.kernel.amplitude, torch.Tensor)


def test_of_a_large_scan_positions_and_probe_are_kept_without_a_copy_of_the_frames(
    on_disk: RawData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = on_disk.at(on_disk.positions_px + 0.25, 2 * on_disk.probe)
    assert write_refined(moved, tmp_path).name == REFINED_SCAN
    (tmp_path / REFINED_SCAN).unlink()
    monkeypatch.setattr("ptycho_ray.data.raw_data.MOST_COPIED", 1000)
    kept = write_refined(moved, tmp_path)
    assert kept.name == REFINED_POSITIONS
    assert not (tmp_path / REFINED_SCAN).exists()
    found = as_refined(on_disk, tmp_path)
    np.testing.assert_allclose(found.positions_px, moved.positions_px)
    np.testing.assert_allclose(found.probe, moved.probe)
    again = load_data(on_disk.source, reading=Reading(positions=str(kept), probe=str(tmp_path / REFINED_PROBE)))
    np.testing.assert_allclose(again.positions_px, moved.positions_px)
    ratio = again.probe / moved.probe
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-4)  # it is scaled to the photons of the patterns
