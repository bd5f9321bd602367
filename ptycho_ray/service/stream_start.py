"""The first message of a stream: what it says, and what follows from it."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ptycho_ray.config.model import WHOLE_SCANS
from ptycho_ray.service.engine import Options
from ptycho_ray.service.jobs import AUTOMATIC
from ptycho_ray.service.models import Checked, Model
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import SOLVER
from ptycho_ray.service.service import Service
from ptycho_ray.service.spool import StreamSettings
from ptycho_ray.service.uploads import choices_from
from ptycho_ray.service.without_model import check_choices


class Probe(BaseModel):
    """The modes of a probe: complex64, little-endian, in base64."""

    shape: tuple[int, int, int]
    data: str = Field(max_length=2**24)

    model_config = ConfigDict(extra="forbid")


class Start(BaseModel):
    """The first message of a new stream.

    ``model`` reconstructs the scan at the end; without one that is done automatically, with ``choices`` as a request has them.
    ``preview_model`` draws the live image; by default ``model``, or the first that takes patterns of this side.
    """

    type: Literal["start"]
    model: str | None = Field(None, max_length=210)
    preview_model: str | None = Field(None, max_length=210)
    choices: dict[str, Any] = Field(default_factory=dict)
    probe: Probe | None = None
    N: int = Field(ge=8, le=8192)
    dtype: Literal["float32", "uint8", "uint16", "uint32", "int32"] = "float32"
    domain: Literal["amplitude", "intensity"] = "intensity"
    counts_are_photons: bool | None = None
    pixel_size_m: float | None = Field(None, gt=0)
    energy_eV: float | None = Field(None, gt=0)
    detector_distance_m: float | None = Field(None, gt=0)
    electrons: bool = False
    preview_interval_s: float = Field(0.5, ge=0.05, le=3600)

    model_config = ConfigDict(extra="forbid")


class Resume(BaseModel):
    """The first message after a broken connection."""

    type: Literal["resume"]
    stream_id: str = Field(pattern="^[0-9a-f]{32}$")
    preview_interval_s: float = Field(0.5, ge=0.05, le=3600)

    model_config = ConfigDict(extra="forbid")


def settings_of(start: Start, service: Service, owner: str) -> tuple[StreamSettings, NDArray[np.complex64] | None]:
    """What a stream does, and the probe [P, N, N] of its scan if the sender knows it.

    Raises:
        Problem: 422 for a choice, a model or a probe that does not go with the rest.
    """
    side, most = start.N, service.settings.max_N
    if side > most:
        more = {"field": "N", "found": side, "expected": f"at most {most}"}
        raise Problem(422, "invalid", f"Patterns of a side up to {most} are accepted.", more)
    choices = choices_from(start.choices | ({} if start.model is None else {"model": start.model}))
    check_choices(choices, with_model=choices.model is not None)
    model, preview = _models(service, choices.model, start.preview_model, side)
    options = {name: getattr(choices, name) for name in Options.__dataclass_fields__ if name != SOLVER}
    details = start.model_dump(exclude={"type", "model", "preview_model", "preview_interval_s", "choices", "probe"})
    chosen = StreamSettings(
        owner=owner,
        model=AUTOMATIC if model is None else model.key,
        preview_model="" if preview is None else preview.key,
        options=options | {SOLVER: choices.solver()},
        **details,
    )
    return chosen, None if start.probe is None else _probe(start.probe, side)


def _models(service: Service, named: str | None, preview: str | None, side: int) -> tuple[Model | None, Model | None]:
    """The model of the whole scan, and that of the live image; Problem 422 for one that takes no patterns of this side."""
    store = service.models
    whole, live = (None if name is None else store.choose(name) for name in (named, preview))
    for model in (whole, live):
        if model is not None and not _takes(store.check(model), side):
            expected = store.check(model).side
            more = {"field": "N", "found": side, "expected": expected}
            raise Problem(422, "invalid", f"Model {model.name} takes patterns of side {expected}.", more)
    fitting = (model for model in store.usable() if _takes(store.check(model), side))
    return whole, live or whole or next(fitting, None)


def _takes(checked: Checked, side: int) -> bool:
    """Whether a model takes patterns of this side: its own, or if its network sees the probe all that its layers divide."""
    if checked.side == side:
        return True
    config = (checked.manifest or {}).get("config", {}).get("model", {})
    sees_probe = config.get("probe_conditioning", "none") != "none" or config.get("architecture") in WHOLE_SCANS
    return sees_probe and side >= 32 and side % 8 == 0


def _probe(sent: Probe, side: int) -> NDArray[np.complex64]:
    try:
        probe = np.frombuffer(base64.b64decode(sent.data, validate=True), "<c8").reshape(sent.shape)
        if probe.shape[1:] != (side, side) or not np.isfinite(probe).all() or not probe.any():
            raise ValueError("no probe of this side")
    except ValueError:
        more = {"field": "probe", "found": list(sent.shape), "expected": f"complex64 [modes, {side}, {side}] in base64"}
        raise Problem(422, "invalid", "The probe does not fit the patterns.", more) from None
    return probe.astype(np.complex64)
