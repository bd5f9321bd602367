"""A reconstruction that decides for itself: what it finds, what it leaves alone, and when it says that nothing worked."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import make_scan

import ptycho_ray as pr
from ptycho_ray.automatic.examine import examine
from ptycho_ray.automatic.guesses import first_probes, out_of_focus, rescaled_probe, turned_in_time
from ptycho_ray.automatic.reconstruct import plan_reconstruction, reconstruct_scan
from ptycho_ray.automatic.trials import Assumption, Part, fitting
from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.inspection import near_field_command, near_field_px2, photons_per_unit
from ptycho_ray.data.loading import estimate_probe
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.refinement.unseen import judge_unseen


@pytest.fixture(scope="module")
def scan():
    return make_scan(120)


def changed(scan, **parts):
    """The scan with other positions, patterns or probe."""
    positions = parts.get("positions", scan.positions_px)
    intensity = parts.get("intensity", scan.patterns.intensity())
    return RawData(
        positions[:, 1], positions[:, 0], None, None, intensity, parts.get("probe", scan.probe), domain="intensity",
        counts_are_photons=parts.get("counts_are_photons"),
    )  # fmt: skip


@pytest.mark.slow
def test_exchanged_axes_are_found_and_the_same_seed_decides_the_same(scan):
    exchanged = changed(scan, positions=scan.positions_px[:, ::-1], counts_are_photons=True)
    first, second = (plan_reconstruction(exchanged, seed=2) for _ in range(2))
    np.testing.assert_allclose(first.choice.assumption.matrix, np.eye(2)[::-1])
    assert first.lines == second.lines
    np.testing.assert_array_equal(first.choice.trial.probe, second.choice.trial.probe)


def test_an_image_is_judged_by_patterns_that_took_no_part(scan):
    told = []
    made = reconstruct_scan(scan, seed=0, tell=told.append)
    np.testing.assert_allclose(made.plan.choice.assumption.matrix, np.eye(2))
    assert made.config.position_start is None, "nothing is wrong with the positions"
    assert (made.plan.examined.photons_per_unit, len(made.plan.examined.left_out)) == (1.0, 0)
    verdict = made.verdict
    assert verdict.trusted
    assert verdict.patterns == len(made.held_out) == 12
    assert verdict.r_factor == pytest.approx(verdict.r_factor_of_noise, rel=0.03)
    assert verdict.r_factor < verdict.r_factor_of_a_flat_object
    assert told[-1] == verdict.sentence
    assert f"{verdict.times_noise:.2f} times the photon noise" in verdict.sentence


def test_a_notebook_needs_no_setting(scan, tmp_path):
    image = pr.reconstruct(scan, progress=False)
    assert image.bundle is None
    assert image.automatic.verdict.sentence in image._repr_html_()
    assert image.figures_of_merit()["r_factor"] == image.automatic.verdict.r_factor
    with pytest.raises(ConfigurationError, match="nepochs"):
        image.save_model(tmp_path)


@pytest.mark.slow
def test_patterns_without_a_sample_end_in_a_verdict_and_exit_code_3(scan, tmp_path, capsys, rng):
    order = rng.permutation(len(scan))
    nonsense = changed(scan, intensity=scan.patterns.intensity()[order], counts_are_photons=True)
    nonsense.to_file(tmp_path / "scan.npz")
    words = ["reconstruct", str(tmp_path / "scan.npz"), "--output-dir", str(tmp_path / "image"), "--json"]
    assert main(words) == 3
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"].startswith("NOT TO BE TRUSTED")
    assert (tmp_path / "image" / "reconstruction.npz").is_file()
    again = load_data(tmp_path / "image" / "refined_scan.npz")
    assert len(again) == result["patterns"]


@pytest.mark.slow
def test_the_plan_alone_writes_nothing(scan_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reconstruct", str(scan_file), "--plan", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"][0]["assumption"] == "probe of the file"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("factor", "found"), [(1.0, 1.0), (100.0, 0.01), (0.01, 100.0), (1 / 7, 7.0)])
def test_the_unit_of_the_counts_is_found(scan, factor, found):
    counts = (scan.patterns.intensity() * factor).astype(np.float32)
    assert photons_per_unit(changed(scan, intensity=counts)) == pytest.approx(found)


def test_intensities_without_a_quantum_have_no_unit(scan, rng):
    smooth = scan.patterns.intensity() * rng.uniform(0.9, 1.1, scan.patterns.shape)
    assert photons_per_unit(changed(scan, intensity=smooth.astype(np.float32))) is None


def test_broken_frames_and_pixels_are_left_out_and_named(scan):
    intensity, positions = scan.patterns.intensity().copy(), scan.positions_px.copy()
    intensity[7] *= 0.01
    intensity[:, 16, 17] = 0
    positions[20] += 5000
    examined = examine(changed(scan, intensity=intensity, positions=positions, counts_are_photons=True))
    assert examined.left_out.tolist() == [7, 20]
    assert examined.scan.bad_pixels[16, 17]
    assert any("7, 20" in line for line in examined.lines)


def test_the_truth_is_at_the_noise_and_every_disturbance_is_above_it(scan):
    truth = StitchedObject(scan.object_truth, np.ones(scan.object_truth.shape, np.float32), (0.0, 0.0))
    rows = np.arange(len(scan))

    def score(image, probe=None, shift=0.0):
        moved = changed(scan, positions=scan.positions_px + shift * np.sin(rows)[:, None], counts_are_photons=True)
        run = Refinement(moved, RefinementConfig(probe_start=None), start=image, probe=probe).run
        return judge_unseen(run, rows, positions=False, intensities=False, photons_per_unit=1.0).times_noise

    best = score(truth)
    assert best == pytest.approx(1.0, abs=0.02)
    blurred = replace(truth, image=(truth.image + np.roll(truth.image, 1, axis=0)) / 2)
    assert score(blurred) > best + 0.02
    assert score(truth, probe=rescaled_probe(scan.probe, 1.1)) > best + 0.02
    assert score(truth, shift=0.6) > best + 0.02


def test_a_pattern_is_judged_at_its_own_position_by_the_other_half_of_its_pixels(scan, rng):
    truth = StitchedObject(scan.object_truth, np.ones(scan.object_truth.shape, np.float32), (0.0, 0.0))
    wrong = changed(scan, positions=scan.positions_px + rng.normal(0, 0.4, (len(scan), 2)), counts_are_photons=True)
    run = Refinement(wrong, RefinementConfig(probe_start=None), start=truth).run
    before = run.geometry.positions_px.copy()
    rows = np.arange(20)
    held, fitted = (
        judge_unseen(run, rows, positions=own, intensities=False, photons_per_unit=1.0) for own in (False, True)
    )
    assert fitted.times_noise == pytest.approx(1.0, abs=0.03)
    assert held.times_noise > fitted.times_noise + 0.03
    np.testing.assert_array_equal(run.geometry.positions_px, before)


def test_guesses_of_a_probe(scan):
    twin = turned_in_time(scan.probe)
    patterns = [np.abs(np.fft.fft2(probe)) for probe in (scan.probe, twin)]
    np.testing.assert_allclose(*patterns, atol=1e-3 * patterns[0].max())
    wide = rescaled_probe(scan.probe, 1.25)
    assert probe_diameter_px(wide) == pytest.approx(1.25 * probe_diameter_px(scan.probe), rel=0.08)
    assert np.sum(np.abs(wide) ** 2) == pytest.approx(np.sum(np.abs(scan.probe) ** 2), rel=1e-4)
    assert [probe_diameter_px(probe) for probe in out_of_focus(estimate_probe(scan.patterns), [14.0])] == pytest.approx(
        [14, 14], rel=0.1
    )


def test_a_probe_that_has_filled_its_window_is_not_gone_on_with(scan, monkeypatch):
    trial = Part(scan, 0).run(Assumption("as it is", scan.probe), 1)
    noise = np.ones_like(trial.probe)
    assert fitting(trial.probe, noise) is trial.probe
    assert fitting(noise, trial.probe) is trial.probe
    monkeypatch.setattr(Refinement, "result", lambda self: SimpleNamespace(probe=noise, slab=None))
    assert Part(scan, 0).run(Assumption("as it is", scan.probe), 1).probe is scan.probe


def test_the_judges_of_a_part_are_learnt_from_by_nobody(scan):
    part = Part(scan, 0, most=60)
    assert len(part.scan) == 60
    assert np.isin(part.judges_of_scan, part.rows).all()
    refinement = Refinement(part.scan, RefinementConfig(), held_out=part.judges)
    assert not np.isin(part.judges, refinement.run.rows).any()


def test_evaluate_judges_an_image_with_the_probe_and_positions_that_were_found_with_it(scan, tmp_path, capsys):
    """The probe of the file is 30 % too wide: with it, the refined image would explain nothing."""
    wrong = changed(scan, probe=rescaled_probe(scan.probe, 1.3), counts_are_photons=True)
    wrong.to_file(tmp_path / "scan.npz")
    folder = tmp_path / "image"
    words = [str(tmp_path / "scan.npz"), "--iterations", "30", "--output-dir", str(folder)]
    assert main(["refine", *words]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(folder), str(tmp_path / "scan.npz"), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)["diffraction"]
    assert judged["times_noise"] < 1.15
    words = ["compare", str(folder), "--scan", str(tmp_path / "scan.npz"), "--truth", str(folder), "--json"]
    for subsample in ([], ["--n-subsample", "40"]):
        assert main([*words, *subsample, "--output-dir", str(tmp_path / f"comparison{len(subsample)}")]) == 0
        (row,) = json.loads(capsys.readouterr().out)["images"]
        assert row["r_factor"] == pytest.approx(judged["r_factor"], rel=1e-3)
    (folder / "refined_scan.npz").unlink()
    assert main(["evaluate", str(folder), str(tmp_path / "scan.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["diffraction"]["times_noise"] > judged["times_noise"] + 0.2


def test_a_near_field_scan_that_does_not_say_how_near_is_refused_with_the_way_on(scan):
    near = changed(scan)
    near.far_field = False
    with pytest.raises(InputError, match=r"near_field_px2.*--refinement\.near-field-px2") as caught:
        first_probes(near, {})
    assert caught.value.field == "near_field_px2"
    (given,) = first_probes(near, {"near_field_px2": 30.0})
    assert given.settings["near_field_px2"] == 30.0
    (far,) = first_probes(scan, {"near_field_px2": None})
    assert far.settings.get("near_field_px2") is None


def test_numbers_that_no_far_field_has_mean_a_near_field_first(scan):
    odd = changed(scan)
    odd.energy_eV, odd.detector_distance_m, odd.detector_pixel_m = 12_398.4198, 2.0, 1e-5  # wavelength 1e-10 m
    far = 1e-10 * 2.0 / (odd.N * 1e-5)
    odd.pixel_size_m = far
    assert [each.settings for each in first_probes(odd, {})] == [{}]
    odd.pixel_size_m = far / 4
    first, second = first_probes(odd, {})
    assert first.settings["near_field_px2"] == pytest.approx(1e-10 * 2.0 / (1e-5 * odd.pixel_size_m))
    assert second.settings == {}
    odd.far_field = True
    assert len(first_probes(odd, {})) == 1
    assert "--near-field-px2 " + f"{near_field_px2(odd):.4g}" in near_field_command(odd)
