"""Putting an experiment right: the laws that propagation and position transforms obey, and what they do to a scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptycho_ray.data.corrections import (
    apply_corrections,
    fresnel_propagate,
    position_matrix,
    transformed_positions,
    with_modes,
)
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.simulation.probes import make_probe, propagate
from ptycho_ray.workflow import create_ptycho_data_container

OPTICS = {"energy_eV": 9e3, "pixel_size_m": 25e-9}


@pytest.fixture
def probe(rng):
    return make_probe("zernike", 48, rng, photons=1e4, modes=2).astype(np.complex128)


@pytest.mark.parametrize("carry", [fresnel_propagate, lambda field, d: propagate(field, d * 1e-5, **OPTICS)])
def test_propagation_keeps_the_energy_composes_and_can_be_undone(probe, carry):
    there = carry(probe, 7.0)
    assert not np.allclose(there, probe, atol=1.0)
    np.testing.assert_allclose(np.abs(there) ** 2 @ np.ones(48) @ np.ones(48), (np.abs(probe) ** 2).sum((1, 2)))
    np.testing.assert_allclose(carry(there, -7.0), probe, atol=1e-9)
    np.testing.assert_allclose(carry(carry(probe, 3.0), 4.0), there, atol=1e-9)
    np.testing.assert_allclose(carry(probe, 0.0), probe, atol=1e-9)


def test_the_dimensionless_distance_is_that_in_metres(probe):
    distance = 3e-5
    wavelength = 1.239841984e-6 / OPTICS["energy_eV"]
    metres = propagate(probe, distance, **OPTICS)
    np.testing.assert_allclose(
        fresnel_propagate(probe, wavelength * distance / OPTICS["pixel_size_m"] ** 2),
        metres,
        atol=1e-3 * abs(probe).max(),
    )


def test_position_transforms_compose_and_can_be_undone(rng):
    positions = rng.uniform(10, 60, (30, 2))
    first, second = position_matrix(1.02, 0.1, 0.05), position_matrix(0.9, -0.2, 0.01)
    both = transformed_positions(transformed_positions(positions, first), second)
    np.testing.assert_allclose(both, transformed_positions(positions, second @ first))
    np.testing.assert_allclose(
        transformed_positions(transformed_positions(positions, first), np.linalg.inv(first)), positions
    )
    np.testing.assert_allclose(both.mean(axis=0), positions.mean(axis=0))


def test_what_scale_rotation_and_shear_mean():
    corners = np.array([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    np.testing.assert_allclose(transformed_positions(corners, position_matrix(1.5)), 1.5 * corners)
    quarter = transformed_positions(corners, position_matrix(rotation_rad=np.pi / 2))
    np.testing.assert_allclose(quarter, np.stack([-corners[:, 1], corners[:, 0]], axis=1), atol=1e-12)
    sheared = transformed_positions(corners, position_matrix(shear=0.5))
    np.testing.assert_allclose(sheared, corners + 0.5 * np.stack([corners[:, 1], np.zeros(4)], axis=1))


@pytest.mark.parametrize("n_modes", [1, 2, 4])
def test_any_number_of_modes_carries_the_same_photons(probe, rng, n_modes):
    made = with_modes(probe, n_modes, rng)
    assert made.shape == (n_modes, 48, 48)
    np.testing.assert_allclose((np.abs(made) ** 2).sum(), (np.abs(probe) ** 2).sum())
    overlaps = made.reshape(n_modes, -1).conj() @ made.reshape(n_modes, -1).T
    np.testing.assert_allclose(overlaps - np.diag(np.diag(overlaps)), 0, atol=1e-2)


def test_a_scan_is_put_right_before_it_is_grouped(small_scan, tiny_config):
    assert apply_corrections(small_scan, tiny_config) is small_scan
    config = replace(tiny_config, position_scale=1.1, probe_defocus_px2=4.0, probe_modes=3)
    container = create_ptycho_data_container(small_scan, config)
    np.testing.assert_allclose(
        np.ptp(container.raw.positions_px, axis=0), 1.1 * np.ptp(small_scan.positions_px, axis=0)
    )
    assert container.raw.probe.shape == (3, 32, 32)
    assert container.raw.probe.dtype == np.complex64
    assert small_scan.probe.shape == (1, 32, 32), "the scan that was handed over stays as it is"


def test_lengths_in_metres_need_a_scan_that_states_them(small_scan, tiny_config):
    with pytest.raises(
        ConfigurationError, match="probe_defocus_m.*no pixel_size_m and no energy_eV.*probe_defocus_px2"
    ):
        apply_corrections(small_scan, replace(tiny_config, probe_defocus_m=1e-6))
    with pytest.raises(ConfigurationError, match="object_pixel_size_m.*states no pixel_size_m"):
        apply_corrections(small_scan, replace(tiny_config, object_pixel_size_m=1e-8))


def test_another_pixel_size_measures_the_positions_again(small_scan, tiny_config):
    import copy

    scan = copy.copy(small_scan)
    scan.pixel_size_m = 20e-9
    made = apply_corrections(scan, replace(tiny_config, object_pixel_size_m=10e-9))
    np.testing.assert_allclose(np.ptp(made.positions_px, axis=0), 2 * np.ptp(scan.positions_px, axis=0))
    assert made.pixel_size_m == 10e-9
