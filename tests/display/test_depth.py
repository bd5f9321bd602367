"""The slices of a thick object, written for other programs and drawn."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile

from ptycho_ray.display.depth import levelled_phases, save_depth
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.result import RefinementResult
from ptycho_ray.refinement.slab import Slab


def found(slab: Slab | None) -> RefinementResult:
    rng = np.random.default_rng(0)
    phases = 0.2 * rng.normal(size=(3, 20, 24)) + np.array([1.0, 3.0, -2.0])[:, None, None]
    slices = np.exp(1j * phases).astype(np.complex64)
    weight = np.zeros((20, 24), np.float32)
    weight[2:18, 3:22] = 1
    image = StitchedObject(slices.prod(axis=0), weight, (0, 0))
    probe = np.ones((1, 8, 8), np.complex64)
    return RefinementResult(image, slices, probe, np.zeros((1, 2)), np.ones(1, np.float32), None, slab)


def test_a_thin_object_has_no_depth(tmp_path):
    assert save_depth(found(None), tmp_path, 1e-11) == ({}, [])
    assert not list(tmp_path.iterdir())


def test_the_phase_of_a_slice_is_relative_to_its_own_mean():
    result = found(Slab(1.0, (0.0, 0.0)))
    region = result.stitched.covered()
    phases = levelled_phases(result.slices, region)
    assert np.abs(phases[:, region].mean(axis=1)).max() < 0.01
    assert phases[:, region].std() == pytest.approx(0.2, rel=0.1)
    assert not phases[:, ~region].any()


@pytest.mark.parametrize("pixel_m", [0.4e-10, None])
def test_the_stack_says_its_steps_in_nm_if_they_are_known(tmp_path, pixel_m):
    result = found(Slab(1.0, (0.0, 0.0), 20.0, (0.0, 0.0)) if pixel_m else Slab(1.0, (0.0, 0.0)))
    files, (section,) = save_depth(result, tmp_path, pixel_m)
    assert {path.name for path in files.values()} == {path.name for path in tmp_path.iterdir()}
    assert len(section.pictures) == 2
    phases = levelled_phases(result.slices, result.stitched.covered())
    with tifffile.TiffFile(files["slices_tiff"]) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), phases)
        assert tiff.imagej_metadata.get("spacing") == (2.0 if pixel_m else None)
    with h5py.File(files["slices_emd"]) as file:
        np.testing.assert_array_equal(file["data/phase/data"][:], phases)
        np.testing.assert_allclose(file["data/amplitude/data"][:], 1, rtol=1e-5)
        steps = [np.diff(file[f"data/phase/dim{axis}"][:])[0] for axis in (1, 2, 3)]
        units = file["data/phase/dim1"].attrs["units"]
    assert steps == pytest.approx([2.0, 0.04, 0.04] if pixel_m else [1, 1, 1])
    assert units == ("[n_m]" if pixel_m else "slice")
