"""A settings class as fields of another schema."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ConfigDict, ValidationError, create_model

from ptycho_ray.config.schema import docstrings_of_fields, fields_of_settings
from ptycho_ray.refinement.config import RefinementConfig

ALL = [field.name for field in dataclasses.fields(RefinementConfig)]
ONLY = [name for name in ALL if name != "seed"]
Made: Any = create_model(
    "Made", __config__=ConfigDict(extra="forbid"), **fields_of_settings(RefinementConfig, "solver", only=ONLY)
)


def test_every_setting_is_there_with_its_default_and_its_help():
    fields = {field.alias: field for field in Made.model_fields.values()}
    assert set(fields) == {f"solver.{name}" for name in ONLY}
    assert set(create_model("Plain", **fields_of_settings(RefinementConfig)).model_fields) == set(ALL)
    for setting in dataclasses.fields(RefinementConfig):
        if setting.name != "seed":
            field = fields[f"solver.{setting.name}"]
            assert field.default == setting.default
            assert docstrings_of_fields(RefinementConfig)[setting.name] in field.description


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("probe_start", "none", None),
        ("probe_start", "7", 7),
        ("object_step", "1e-2", 0.01),
        ("hold_probe_power", "true", True),
        ("method", "epie", "epie"),
    ],
)
def test_words_become_values(name, given, kept):
    made = Made(**{f"solver.{name}": given})
    assert made.model_fields_set == {f"solver__{name}"}
    assert getattr(made, f"solver__{name}") == kept


@pytest.mark.parametrize(
    ("name", "given"),
    [("iterations", "none"), ("iterations", 0), ("damping", 2), ("method", "epi"), ("probe_star", 1), ("seed", 1)],
)
def test_what_the_class_refuses_is_refused(name, given):
    with pytest.raises(ValidationError):
        Made(**{f"solver.{name}": given})
