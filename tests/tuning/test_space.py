"""Search spaces: what is accepted, and in which words the rest is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptycho_ray.errors import ConfigurationError, MissingFileError
from ptycho_ray.tuning.space import Space, load_space, space_from, suited_to, without_refinement

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "tune").glob("*.yaml"))


def made(parameters: dict[str, Any], **others: Any) -> Space:
    return space_from({"parameters": parameters, **others})


def test_distributions_are_read_with_the_types_of_their_settings() -> None:
    space = made(
        {
            "neighbor_count": {"integer": [4, 8], "when": {"gridsize": 2}},
            "gridsize": {"choice": [1, 2]},
            "execution.learning_rate": {"loguniform": ["1e-4", "1e-2"]},  # so YAML reads 1e-4
            "probe_trainable": {"choice": [True, False]},
            "probe_mask_diameter": {"choice": [None, 20]},
            "position_scale": {"uniform": [1, 2]},
        }
    )
    by_name = {parameter.name: parameter for parameter in space.parameters}
    assert by_name["execution.learning_rate"].values == (1e-4, 1e-2)
    assert by_name["model.probe_mask_diameter"].values == (None, 20.0)
    assert by_name["neighbor_count"].when == {"model.gridsize": (2,)}
    order = [parameter.name for parameter in space.parameters]
    assert order.index("model.gridsize") < order.index("neighbor_count")


def test_a_grid_has_every_combination_that_exists() -> None:
    space = made(
        {"gridsize": {"choice": [1, 2]}, "neighbor_count": {"integer": [4, 6], "when": {"gridsize": [2]}}},
        search="grid",
    )
    assert list(space.grid()) == [
        {"model.gridsize": 1},
        *({"model.gridsize": 2, "neighbor_count": count} for count in (4, 5, 6)),
    ]


def test_points_have_full_names_and_the_types_of_their_settings() -> None:
    space = made(
        {"gridsize": {"choice": [1, 2]}, "execution.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        points=[{"gridsize": 2, "execution.learning_rate": "1e-3"}],
    )
    assert space.points == ({"model.gridsize": 2, "execution.learning_rate": 1e-3},)


GOOD = {"gridsize": {"choice": [1, 2]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"parameters": {"gridsizes": {"choice": [1, 2]}}},
            r"gridsizes.*unknown setting.*Did you mean 'model.gridsize'",
        ),
        ({"parameters": {"execution.lerning_rate": {"uniform": [0.1, 1]}}}, "Did you mean 'execution.learning_rate'"),
        ({"parameter": GOOD}, "Did you mean 'parameters'"),
        ({"parameters": {"gridsize": {"uniform": [1, 2]}}}, "gridsize: the setting is an integer; found uniform"),
        ({"parameters": {"probe_trainable": {"integer": [0, 1]}}}, "true or false; found integer; expected choice"),
        ({"parameters": {"optimizer": {"uniform": [0, 1]}}}, "one of a few choices; found uniform; expected choice"),
        ({"parameters": {"optimizer": {"choice": ["adam", "adagrad"]}}}, "optimizer: found 'adagrad'; expected 'adam'"),
        ({"parameters": {"nphotons": {"loguniform": [-1, 1e9]}}}, "nphotons: found -1; expected a number above 0"),
        ({"parameters": {"weight_decay": {"loguniform": [0, 1]}}}, "two numbers above 0"),
        ({"parameters": {"nphotons": {"uniform": [2, 1]}}}, "the lower one first"),
        ({"parameters": {"nphotons": {"uniform": [1, 2, 3]}}}, "low, high"),
        ({"parameters": {"nphotons": {"gaussian": [1, 2]}}}, "nphotons: found gaussian; expected one of choice"),
        ({"parameters": {"nphotons": 1e9}}, "nphotons: found 1000000000.0; expected one of choice"),
        ({"parameters": {"gridsize": {"choice": [2]}}}, "no free parameter"),
        ({"parameters": {}}, "no free parameter"),
        ({}, "no free parameter"),
        ({"parameters": {"output_dir": {"choice": ["a", "b"]}}}, "output_dir: is the same for all trials"),
        ({"parameters": {"nepochs": {"integer": [1, 9]}}}, "nepochs: is the same for all trials"),
        ({"parameters": GOOD, "trial": "fit"}, "trial: found 'fit'; expected direct, refine, train"),
        ({"parameters": GOOD, "trial": "direct"}, "model.gridsize: has no effect on a direct solution"),
        ({"parameters": {"refinement.slices": {"integer": [2, 9]}}}, "refinement.slices: .*expected trial: refine"),
        (
            {"parameters": {"refinement.tilt_row_mrat": {"uniform": [0, 1]}}, "trial": "refine"},
            "Did you mean 'refinement.tilt_row_mrad'",
        ),
        ({"parameters": GOOD, "settings": {"refinement.slices": 0}}, "settings.refinement.slices: found 0"),
        ({"parameters": GOOD, "settings": {"refinement.seed": 0}}, "settings.refinement.seed: unknown setting"),
        ({"parameters": GOOD, "objective": "likelyhood"}, "Did you mean 'likelihood'"),
        ({"parameters": GOOD, "objective": ["frc", "frc"]}, "objective.*each once"),
        (
            {"parameters": {"nphotons": {"uniform": [1, 2]}}, "trial": "direct", "objective": "overlap"},
            "objective: trials of the kind .direct. do not have it; found .overlap.; expected trial: train",
        ),
        ({"parameters": {"nphotons": {"uniform": [1, 2]}}, "search": "grid"}, "nphotons: a grid needs values"),
        ({"parameters": GOOD, "scheduler": "pbt"}, "model.gridsize: cannot be changed while a network trains"),
        ({"parameters": GOOD, "points": [{"gridsize": 3}]}, r"points\[0\].gridsize: found 3; expected choice \[1, 2\]"),
        ({"parameters": GOOD, "points": [{"nphotons": 3}]}, r"points\[0\].nphotons: unknown setting"),
        (
            {"parameters": {"neighbor_count": {"integer": [4, 6], "when": {"gridsize": 2}}}},
            "neighbor_count.when: found model.gridsize; expected another parameter of this space",
        ),
        (
            {"parameters": {**GOOD, "neighbor_count": {"integer": [4, 6], "when": {"gridsize": 3}}}},
            r"neighbor_count.when.model.gridsize: found 3; expected one of \[1, 2\]",
        ),
        (
            {
                "parameters": {
                    "neighbor_count": {"integer": [4, 6], "when": {"gridsize": 2}},
                    "gridsize": {"choice": [1, 2], "when": {"neighbor_count": 4}},
                }
            },
            "a circle of conditions",
        ),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_space(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_space(tmp_path / "none.yaml")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_spaces_are_good(file: Path) -> None:
    from ptycho_ray.config import TrainingConfig
    from ptycho_ray.config.sources import resolve_config

    space = load_space(file)
    config = resolve_config(TrainingConfig, None, environment={}, typed=without_refinement(space.settings)).config
    assert config.validation_fraction > 0


def test_a_file_of_counts_has_no_photon_count_to_be_found(small_scan) -> None:
    both = {"nphotons": {"loguniform": [1e3, 1e6]}, "execution.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    point = {"nphotons": 1e4, "execution.learning_rate": 1e-3}
    space = space_from({"parameters": both, "points": [point]})
    left = suited_to(space, small_scan)
    assert [parameter.name for parameter in left.parameters] == ["execution.learning_rate"]
    assert left.points == ({"execution.learning_rate": 1e-3},)
    with pytest.raises(ConfigurationError, match=r"parameters.nphotons: .*holds photon counts"):
        suited_to(space_from({"parameters": {"nphotons": both["nphotons"]}}), small_scan)
    amplitudes = copy.copy(small_scan)
    amplitudes.counts_are_photons = False
    assert suited_to(space, amplitudes) is space


def test_the_named_spaces_are_shipped() -> None:
    assert {"geometry", "network", "physics", "probe"} <= {file.stem for file in SHIPPED}
