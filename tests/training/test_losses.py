"""The terms of the loss: their gradients, their units, their weights over the epochs, and what they ask of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from ptycho_ray.config import ModelConfig, TrainingConfig
from ptycho_ray.config.command_line import parse_arguments
from ptycho_ray.config.extensions import register
from ptycho_ray.config.loss_schedule import TERMS, factor_at, parse_schedules
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.data import Normalisation, RawData
from ptycho_ray.data.patches import cut_patches
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.models.physics_informed import PhysicsInformedModel, Prediction
from ptycho_ray.physics.agreement import disagreement, in_phase, phase_error
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.training.forward import predict_piece
from ptycho_ray.training.loss import SQUARES_FIRST, Evidence, TrainingLoss
from ptycho_ray.training.scan_training import GroupList, overlapping_groups
from ptycho_ray.workflow import create_ptycho_data_container, physical_probe, train_cdi_model

register("likelihood", "of_a_test", lambda rate, counts: 2 * (rate.sqrt() - counts.sqrt()).square())

#: Every term switched on, in two configurations, for supervised training leaves out the diffraction.
EVERY: dict[str, Any] = {
    "likelihood": "of_a_test",
    "mae_weight": 1.0,
    "gaussian_amplitude_weight": 1.0,
    "gaussian_intensity_weight": 1.0,
    "realspace_weight": 1.0,
    "tv_weight": 1.0,
    "consistency_weight": 1.0,
    "realspace_mae_weight": 1.0,
}
PHYSICS_TERMS = [name for name in TERMS if not name.startswith("label")]


def config_for(term: str, **settings: Any) -> TrainingConfig:
    supervised = term.startswith("label")
    model = ModelConfig(N=32, n_filters_scale=1, model_type="supervised" if supervised else "pinn")
    return TrainingConfig(model=model, batch_size=8, nepochs=2, validation_fraction=0.2, **EVERY, **settings)


@pytest.mark.parametrize(
    ("term", "settings"),
    [
        *((term, {}) for term in TERMS),
        ("tv", {"tv_kind": "isotropic"}),
        *((term, {"readout_noise_photons": 3.0}) for term in TERMS[:3]),
    ],
)
def test_gradients_against_finite_differences(term, settings):
    """In double precision, with respect to the object patches of two groups of two patterns."""
    generator = torch.Generator().manual_seed(11)

    def noisy(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.complex128)

    probe, truth, other = 5 * noisy(2, 6, 6), 1 + 0.5 * noisy(2, 2, 6, 6), 1 + 0.5 * noisy(2, 6, 6)
    patches = (truth + 0.4 * noisy(2, 2, 6, 6)).requires_grad_()
    counts = torch.poisson(diffraction_intensity(illuminate(truth, probe)).float(), generator=generator).double()
    weight = torch.rand(6, 6, generator=generator, dtype=torch.float64) + 0.1
    scales = Normalisation(1.0, 0.1, 1.0, float(counts.sum(dim=(-2, -1)).mean()), 1.0)
    loss = TrainingLoss(config_for(term, **settings), scales)

    def value(patches: torch.Tensor) -> torch.Tensor:
        prediction = Prediction(patches[:, 0], diffraction_intensity(illuminate(patches, probe)), patches)
        evidence = Evidence(truth, weight, disagreement(patches[:, 0], other, weight))
        return loss.terms(prediction, counts, evidence)[term]

    assert torch.autograd.gradcheck(value, (patches,))
    assert value(patches).ndim == 0


def rescaled(scan: RawData, factor: float) -> RawData:
    """The same scan with ``factor`` times the photons in the patterns and in the probe."""
    y, x = scan.positions_px.T
    photons = scan.patterns.intensity(np.arange(len(scan))) * np.float32(factor)
    return RawData(
        x, y, None, None, photons, scan.probe * np.float32(factor**0.5), None, scan.object_truth,
        domain="intensity", counts_are_photons=True,
    )  # fmt: skip


def gradients(scan: RawData, config: TrainingConfig) -> dict[str, np.ndarray]:
    """The gradient of each term with respect to all weights of a network with the same first weights."""
    container = create_ptycho_data_container(scan, config)
    torch.manual_seed(0)
    model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))
    loss = TrainingLoss(config, container.normalisation)
    groups = GroupList([container], labels=True, partners=True)
    groups.choose_partners(np.random.default_rng(1))
    piece = groups.read(np.arange(8))[0]
    prediction, evidence = predict_piece(model, piece, container.largest_shift_px)
    weights = [*model.network.parameters()]
    return {
        name: np.concatenate(
            [g.numpy().ravel() for g in torch.autograd.grad(term, weights, retain_graph=True, materialize_grads=True)]
        )
        for name, term in loss.terms(prediction, piece.photons, evidence).items()
    }


@pytest.mark.parametrize("term", ["nll", "label_phase"])
@pytest.mark.parametrize("factor", [100.0, 1e-2])
def test_the_dose_changes_no_gradient(small_scan, factor, term):
    """Data and probe rescaled together: the same object, so the same gradient of every term, in size and direction."""
    once, again = gradients(small_scan, config_for(term)), gradients(rescaled(small_scan, factor), config_for(term))
    assert once.keys() == again.keys() >= ({*PHYSICS_TERMS} if term == "nll" else {"label_amplitude", "label_phase"})
    for name in once:
        assert np.linalg.norm(once[name]) > 0, name
        difference = np.linalg.norm(once[name] - again[name]) / np.linalg.norm(once[name])
        assert difference < 1e-3, (name, difference)


def test_the_dose_changes_no_reconstruction(small_scan, tiny_config):
    config = replace(tiny_config, mae_weight=0.5, gaussian_amplitude_weight=0.5, gaussian_intensity_weight=0.5)
    one, hundred = (train_cdi_model(s, None, config) for s in (small_scan, rescaled(small_scan, 100.0)))
    np.testing.assert_allclose(one["history"]["loss"], hundred["history"]["loss"], rtol=1e-3)
    patterns = torch.from_numpy(one["train_container"].batch([0, 5])[0])
    with torch.no_grad():
        first = one["model_instance"].transmission_patches(patterns)
        second = hundred["model_instance"].transmission_patches(100 * patterns)
    assert float((first - second).abs().max() / first.abs().max()) < 5e-3


def test_likelihoods_agree_at_the_noise_limit():
    """At the true rate each of them is one half a pixel, so their weights can be compared."""
    generator = torch.Generator().manual_seed(2)
    rate = 50 + 100 * torch.rand(1, 1, 256, 256, generator=generator)
    counts = torch.poisson(rate, generator=generator)
    mean = float(counts.mean())
    config = TrainingConfig(model=ModelConfig(N=256), gaussian_amplitude_weight=1.0, gaussian_intensity_weight=1.0)
    loss = TrainingLoss(config, Normalisation(1.0, 1.0, 1.0, mean * 256**2, 1.0))
    canvas = torch.ones(1, 256, 256, dtype=torch.complex64)
    for name, value in loss.terms(Prediction(canvas, rate, canvas[:, None]), counts, Evidence()).items():
        assert float(value) * mean == pytest.approx(0.5, rel=0.12), name


def test_bad_pixels_change_no_term():
    """Rubbish in the prediction of bad pixels, and as many dark pixels more: the terms are those of the good ones."""
    config = replace(config_for("nll"), consistency_weight=0.0, realspace_mae_weight=0.0)
    generator = torch.Generator().manual_seed(6)
    rate = 100 * torch.rand(2, 1, 32, 32, generator=generator)
    counts = torch.poisson(rate + 20, generator=generator)
    canvas = torch.ones(2, 32, 32, dtype=torch.complex64)
    scales = Normalisation(1.0, 0.1, 1.0, 5e4, 1.0)
    bad = np.zeros((32, 32), bool)
    bad[::2] = True
    masked = TrainingLoss(config, scales, bad)(Prediction(canvas, rate, canvas[:, None]), counts * ~torch.tensor(bad))
    rows = slice(1, None, 2)
    alone = TrainingLoss(config, scales)(Prediction(canvas, rate[..., rows, :], canvas[:, None]), counts[..., rows, :])
    for name in ("nll", "gaussian_amplitude", "gaussian_intensity", "mae", "r_factor"):
        assert float(masked[name]) == pytest.approx(float(alone[name]), rel=1e-4), name


def test_readout_noise_takes_the_weight_of_dark_pixels(small_scan, tiny_config):
    """The same excess of light in a dark and in a bright pixel: with readout noise the dark one counts less than before."""
    rate, counts = torch.tensor([4.0, 404.0]), torch.tensor([0.0, 400.0])
    shares = []
    for noise in (0.0, 20.0):
        config = replace(tiny_config, readout_noise_photons=noise)
        loss = TrainingLoss(config, Normalisation(1.0, 1.0, 1.0, 1e5, 1.0))
        parts = [float(loss._diffraction_terms(rate[i], counts[i])["nll"]) for i in (0, 1)]
        shares.append(parts[0] / sum(parts))
    assert shares[0] > 0.99
    assert 0.6 < shares[1] < 0.7


def test_schedules_are_linear_between_their_knots():
    knots = parse_schedules(["tv=2:0/6:1/8:0.5"])["tv"]
    assert [factor_at(knots, epoch) for epoch in (0, 2, 3, 6, 7, 100)] == [0, 0, 0.25, 1, 0.75, 0.5]
    assert factor_at(parse_schedules(["nll=0:3"])["nll"], 17) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("consistancy=0:1", "Did you mean 'consistency'"),
        ("tv", "epoch:factor"),
        ("tv=1", "epoch:factor"),
        ("tv=0:x", "epoch:factor"),
        ("tv=5:0/5:1", "increase"),
        ("tv=0:-1", "not below 0"),
        ("tv=0:inf", "finite"),
        ("mae=0:0/1:1", "Its weight is zero"),
    ],
)
def test_a_schedule_without_sense_is_refused(tiny_config, line, words):
    with pytest.raises(ConfigurationError, match="loss_schedule") as caught:
        replace(tiny_config, realspace_weight=1.0, tv_weight=0.1, loss_schedule=(line,))
    assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match="one line for each term"):
        replace(tiny_config, loss_schedule=("nll=0:1", "nll=0:2"))


def test_the_schedule_of_the_page_can_be_written_everywhere(tmp_path):
    """docs/losses.md shows it as YAML and on the command line; an environment variable takes it too."""
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    (tmp_path / "page.yaml").write_text(page.partition("```yaml")[2].partition("```")[0], encoding="utf-8")
    from_file = resolve_config(TrainingConfig, tmp_path / "page.yaml", {}).config
    assert from_file.loss_schedule == ("tv=0:0/10:1", "mae=0:1/20:0", "nll=10:0/20:1")
    words = page.partition("command line `")[2].partition("`")[0].split()
    weights = ["--mae-weight", "1", "--realspace-weight", "1", "--tv-weight", "1e-3"]
    typed = vars(parse_arguments([*weights, *words]))
    assert typed["loss_schedule"] == from_file.loss_schedule[:2]
    variable = {"PTYCHO_RAY_LOSS_SCHEDULE": "nll=10:0/20:1"}
    assert resolve_config(TrainingConfig, None, variable).config.loss_schedule == from_file.loss_schedule[2:]


def test_a_schedule_changes_the_weight_while_training(small_scan, tiny_config):
    """The first epoch without the amplitude term, the second with it; validation is judged by the last weights always."""
    config = replace(tiny_config, mae_weight=0.5, loss_schedule=("mae=0.999:0/1:1",))
    history = train_cdi_model(small_scan, None, config)["history"]
    assert history["loss"][0] == pytest.approx(history["nll"][0], rel=1e-5)
    assert history["loss"][1] == pytest.approx(history["nll"][1] + 0.5 * history["mae"][1], rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(history["val_nll"][0] + 0.5 * history["val_mae"][0], rel=1e-5)


@pytest.mark.parametrize(("network", "begins_with"), [("ffno", "gaussian_amplitude"), ("cnn", "mae")])
def test_absolute_errors_begin_as_squared_ones_where_they_leave_a_network_flat(network, begins_with):
    both = {"nll_weight": 0.0, "mae_weight": 1.0}
    config = TrainingConfig(model=ModelConfig(N=32, architecture=network), nepochs=9, **both)
    scales = Normalisation(1.0, 0.1, 1.0, 5e4, 1.0)
    generator = torch.Generator().manual_seed(6)
    rate = 100 * torch.rand(2, 1, 32, 32, generator=generator)
    counts = torch.poisson(rate + 20, generator=generator)
    canvas = torch.ones(2, 32, 32, dtype=torch.complex64)
    prediction = Prediction(canvas, rate, canvas[:, None])
    every = TrainingLoss(replace(config, gaussian_amplitude_weight=1.0), scales)
    terms = every.terms(prediction, counts, Evidence())
    loss = TrainingLoss(config, scales, steps_an_epoch=SQUARES_FIRST["ffno"] // 2)
    early, late = loss(prediction, counts, epoch=1.9), loss(prediction, counts, epoch=2.0)
    assert float(early["loss"]) == pytest.approx(float(terms[begins_with]))
    assert float(late["loss"]) == pytest.approx(float(terms["mae"]))
    assert float(early["mae"]) == float(late["mae"]) == pytest.approx(float(terms["mae"]))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"consistency_weight": 0.1}, "realspace_weight"),
        ({"nll_weight": 0.0}, "nll_weight"),
        ({"model": ModelConfig(model_type="supervised"), "label_amplitude_weight": 0.0, "label_phase_weight": 0.0},
         "label_phase_weight"),
        ({"positions_trainable": True}, "positions_trainable"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_refused(settings, field):
    with pytest.raises(ConfigurationError) as caught:
        TrainingConfig(**{"model": ModelConfig(), **settings})
    assert caught.value.field == field


def without_truth(scan: RawData, truth: np.ndarray | None = None) -> RawData:
    y, x = scan.positions_px.T
    return RawData(x, y, None, None, scan.patterns, scan.probe, None, truth, source="beamtime/scan7.h5")


@pytest.mark.parametrize("way", ["supervised", "realspace_mae"])
@pytest.mark.parametrize(("truth", "found"), [(None, "no true object"), (np.ones((80, 80)), "without any structure")])
def test_missing_labels_name_the_file(small_scan, tiny_config, way, truth, found):
    config = replace(tiny_config, realspace_weight=1.0, realspace_mae_weight=1.0)
    if way == "supervised":
        config = replace(tiny_config, model=replace(tiny_config.model, model_type="supervised"))
    with pytest.raises(InputError, match=rf"beamtime/scan7\.h5: objectGuess.*{found}"):
        train_cdi_model(without_truth(small_scan, truth), None, config)


@pytest.mark.slow
def test_supervised_training_learns_the_true_object(small_scan, tiny_config):
    config = replace(tiny_config, nepochs=12, model=replace(tiny_config.model, model_type="supervised"))
    history = train_cdi_model(small_scan, None, config)["history"]
    assert "nll" not in history
    total = np.add(history["label_amplitude"], history["label_phase"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    assert history["label_amplitude"][-1] < 0.5 * history["label_amplitude"][0]
    assert history["label_phase"][-1] < 0.9 * history["label_phase"][0]


def test_labels_beside_the_diffraction(small_scan, tiny_config):
    config = replace(tiny_config, realspace_weight=0.5, realspace_mae_weight=0.2)
    history = train_cdi_model(small_scan, None, config)["history"]
    assert history["loss"][0] == pytest.approx(history["nll"][0] + 0.1 * history["object_mae"][0], rel=1e-5)


def test_a_common_phase_and_a_wrapped_phase_cost_nothing():
    generator = torch.Generator().manual_seed(3)
    truth = torch.polar(
        0.5 + torch.rand(2, 8, 8, generator=generator), 6.0 * torch.rand(2, 8, 8, generator=generator)
    ).to(torch.complex128)
    weight = torch.rand(8, 8, generator=generator, dtype=torch.float64)
    turned = truth * complex(np.cos(3.0), np.sin(3.0))
    assert torch.allclose(in_phase(turned, truth, weight), truth)
    assert float(phase_error(in_phase(turned, truth, weight), truth, weight).max()) < 1e-6
    assert float(disagreement(turned, truth, weight).abs().max()) < 1e-12
    assert float(disagreement(truth[:1], truth[1:], weight)) > 0.05


@pytest.mark.parametrize("gridsize", [1, 2])
def test_true_objects_of_overlapping_groups_agree(small_scan, gridsize):
    """A network that knows the truth has no disagreement; one whose patches are displaced by a pixel or two has."""
    model_config = ModelConfig(N=32, n_filters_scale=1, gridsize=gridsize)
    config = TrainingConfig(
        model=model_config, realspace_weight=1.0, consistency_weight=1.0, nll_weight=0.0, neighbor_count=4
    )
    container = create_ptycho_data_container(small_scan, config)
    groups = GroupList([container], partners=True)
    groups.choose_partners(np.random.default_rng(1))
    rows = np.arange(16)
    partners = groups.partners[0][rows]
    assert (partners >= 0).mean() > 0.8
    found = []
    for displacement in (0.0, 2.0):
        model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))
        model.log_object_scale.data.zero_()
        answers: list[torch.Tensor] = []
        for rows_seen in (rows, np.where(partners < 0, rows, partners)):
            where = small_scan.positions_px[container.nn_indices[rows_seen]]
            where = where + (displacement * rows_seen[:, None, None]) % 7
            answers.append(torch.from_numpy(cut_patches(small_scan.object_truth, where, 32)))
        model.network_patches = Mock(side_effect=answers)  # type: ignore[method-assign]
        _, evidence = predict_piece(model, groups.read(rows)[0], container.largest_shift_px)
        found.append(float(evidence.disagreement.detach().mean()))
    assert found[0] < 3e-3
    assert found[1] > 3 * found[0]


@pytest.mark.slow
def test_training_on_agreement_lowers_the_disagreement(small_scan, tiny_config):
    config = replace(tiny_config, nepochs=4, realspace_weight=1.0, consistency_weight=1e-9)
    free = train_cdi_model(small_scan, None, config)["history"]
    bound = train_cdi_model(small_scan, None, replace(config, consistency_weight=3.0))["history"]
    assert bound["val_consistency"][-1] < 0.7 * free["val_consistency"][-1]


def test_partners_overlap_and_are_never_the_group_itself():
    centres = np.array([[0.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.0, 0.0], [100.0, 100.0]])
    near = overlapping_groups(centres, 4.0)
    assert [sorted(row[row >= 0]) for row in near] == [[1, 3], [0, 3], [], [0, 1], []]
