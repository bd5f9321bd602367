"""The one refinement step: what it can start from, its checkpoint, and who calls it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptycho_ray import workflow
from ptycho_ray.bundle import PRETRAINED_FILE, load_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.workflow import reassemble_cdi_image, refine_cdi_image, starting_image

FEW = RefinementConfig(iterations=2, check_every=1, held_out_fraction=0.1)


@pytest.fixture(scope="module")
def trained(small_scan, tmp_path_factory):
    from ptycho_ray.config import ModelConfig, TrainingConfig

    config = TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1), nepochs=1, batch_size=8)
    results = workflow.train_cdi_model(small_scan, None, config)
    folder = tmp_path_factory.mktemp("trained")
    workflow.save_inference_bundle(folder, results)
    return results, config, folder


def test_none_and_flat_are_the_solver_from_a_flat_object(small_scan):
    expected = refine(small_scan, FEW).stitched.image
    for start in (None, "flat"):
        assert np.array_equal(refine_cdi_image(small_scan, FEW, start=start).stitched.image, expected)


def test_a_model_a_bundle_and_its_folder_name_the_same_start(small_scan, trained, tmp_path):
    results, config, folder = trained
    image = reassemble_cdi_image(small_scan, config, model=results["model_instance"])[2]["stitched"]
    image.save(tmp_path / "reconstruction.npz")
    starts = [
        results["model_instance"],
        [results["model_instance"]],
        load_bundle(folder),
        folder,
        str(folder),
        tmp_path,
    ]
    for start in starts:
        np.testing.assert_allclose(starting_image(start, small_scan).image, image.image, rtol=1e-5, atol=1e-6)
    flat = refine_cdi_image(small_scan, FEW).stitched.image
    refined = [refine_cdi_image(small_scan, FEW, start=start).stitched.image for start in (image, folder)]
    np.testing.assert_allclose(refined[0], refined[1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(refined[0], flat, atol=1e-2)


def test_an_ensemble_starts_from_the_mean_of_its_images(small_scan, trained):
    model = trained[0]["model_instance"]
    one, two = (starting_image(models, small_scan) for models in (model, [model, model]))
    assert one.amplitude_std is None
    assert two.amplitude_std is not None
    np.testing.assert_allclose(two.image, one.image, rtol=1e-4, atol=1e-5)


def test_a_name_that_is_nothing_and_a_file_that_is_neither(small_scan, tmp_path):
    with pytest.raises(ConfigurationError, match="'flat', 'direct', a trained model or an image"):
        starting_image(tmp_path / "nothing", small_scan)
    (tmp_path / "text.txt").write_text("neither")
    with pytest.raises(InputError):
        starting_image(tmp_path / "text.txt", small_scan)


def test_reassembling_refines_with_all_settings_of_a_refinement(small_scan, trained):
    results, config, _ = trained
    settings = replace(FEW, method="epie", probe_start=None)
    found = reassemble_cdi_image(small_scan, config, model=results["model_instance"], refinement=settings)[2]
    expected = refine(small_scan, settings, start=found["network_stitched"])
    assert np.array_equal(found["stitched"].image, expected.stitched.image)
    with pytest.raises(ConfigurationError, match="refinement_iterations.*mirrored"):
        reassemble_cdi_image(small_scan, config, flip_x=True, model=results["model_instance"], refinement=settings)


def test_the_checkpoint_is_kept_to_the_end_and_resumed_or_not(small_scan, tmp_path):
    file = tmp_path / "state.safetensors"
    settings = replace(FEW, iterations=5, check_every=2)
    told = []

    def cut(now):
        told.append(now.iteration)
        if told == [1, 2, 3]:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        refine_cdi_image(small_scan, settings, checkpoint=file, on_progress=cut)
    resumed = refine_cdi_image(small_scan, settings, checkpoint=file, on_progress=cut)
    assert told == [1, 2, 3, 3, 4, 5]
    whole = refine_cdi_image(small_scan, settings)
    assert np.array_equal(resumed.stitched.image, whole.stitched.image)
    ended = refine_cdi_image(small_scan, settings, checkpoint=file, on_progress=cut)  # nothing is left to do
    assert np.array_equal(ended.stitched.image, whole.stitched.image)
    assert len(told) == 6
    refine_cdi_image(small_scan, settings, checkpoint=file, resume=False, on_progress=cut)
    assert told[6:] == [1, 2, 3, 4, 5]


def test_images_on_the_way(small_scan):
    seen = []
    refine_cdi_image(
        small_scan, replace(FEW, iterations=4), image_every=2, on_image=lambda now, image: seen.append((now, image))
    )
    assert [now.iteration for now, _ in seen] == [2, 4]
    assert not np.array_equal(seen[0][1].image, seen[1][1].image)


def test_the_command_starts_from_the_pretrained_network(small_scan, tmp_path, monkeypatch):
    assert PRETRAINED_FILE.exists()
    monkeypatch.chdir(tmp_path)
    small_scan.to_file(tmp_path / "scan.npz")
    words = ["refine", "scan.npz", "--from", "pretrained", "--iterations", "1", "--picture-every", "1"]
    assert main([*words, "--output-dir", "image"]) == 0
    written = {path.name for path in (tmp_path / "image").iterdir()}
    assert written >= {"reconstruction.npz", "refinement.safetensors", "report.html", "iteration_0001.png"}
