"""The documents of the interface, as OpenAPI describes them."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from ptycho_ray.config.reading import Reading
from ptycho_ray.config.schema import docstrings_of_fields, fields_of_settings
from ptycho_ray.config.training import OF_AN_IMAGE, InferenceConfig
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.service.demos import DEMOS
from ptycho_ray.service.job_results import FILES, FORMATS
from ptycho_ray.service.jobs import AUTOMATIC, DONE, LOOK, Job
from ptycho_ray.service.metering import cost_of
from ptycho_ray.service.problems import MEDIA_TYPE

Output = Literal["npz", "hdf5", "png", "raw", "json"]
#: Settings of the solver are ``refinement.NAME`` in a query or form; in JSON also members of an object of this name.
SOLVER = "refinement"
#: All but the seed, which is one of everything.
SETTINGS = tuple(field.name for field in dataclasses.fields(RefinementConfig) if field.name != "seed")
Solver: Any = create_model("Solver", **fields_of_settings(RefinementConfig, SOLVER, only=SETTINGS))
#: Choices that only one of the two ways has.
_OF_A_MODEL: dict[str, Any] = {"only": "model"}
_OF_NO_MODEL: dict[str, Any] = {"only": "automatic"}
#: Settings of the image of a network; those of ``OF_AN_IMAGE`` that are not below, where they mean something without one, too.
NETWORK = tuple(name for name in OF_AN_IMAGE if name not in ("n_subsample", "subsample_seed", "refinement_iterations"))
Network: Any = create_model("Network", **fields_of_settings(InferenceConfig, only=NETWORK, extra=_OF_A_MODEL))
#: Where a job stops that is not told to stop earlier.
IMAGE = "image"


def _ways_to_read() -> dict[str, Any]:
    """The options of reading a file as fields of a model; those that name another file are not offered."""
    hints, helps = get_type_hints(Reading), docstrings_of_fields(Reading)
    return {
        each.name: (
            hints[each.name],
            Field(each.default, description=helps[each.name], json_schema_extra={"group": "Reading the file"}),
        )
        for each in dataclasses.fields(Reading)
        if each.name not in ("companion", "keys_only")
    }


#: How a file is read that does not say so itself: the fields of ``Reading``.
WaysToRead: Any = create_model("WaysToRead", **_ways_to_read())


class _Common(BaseModel):
    model: str | None = Field(
        None,
        max_length=210,
        description="NAME or NAME@VERSION of a trained model. Without one the scan is reconstructed automatically: what is "
        "unknown about it is decided by its patterns (docs/automatic.md).",
    )
    gridsize: int | None = Field(
        None, ge=1, le=8, description="Checked against the model, which fixes it.", json_schema_extra=_OF_A_MODEL
    )
    stitch: Literal["probe", "crop"] = Field(
        "probe", description="'probe': patches weighted by the illumination.", json_schema_extra=_OF_A_MODEL
    )
    crop: int = Field(
        20,
        ge=2,
        le=4096,
        description="Side of the central pieces averaged by stitch='crop'; even.",
        json_schema_extra=_OF_A_MODEL,
    )
    n_subsample: int | None = Field(None, ge=2, description="Use only this many patterns, chosen at random.")
    subsample_seed: int | None = Field(None, ge=0, lt=2**32, description="Seed of this random selection.")
    refinement_iterations: int = Field(
        0,
        ge=0,
        le=10000,
        description="Iterations of refinement of the network's image.",
        json_schema_extra=_OF_A_MODEL,
    )
    evaluate: bool = Field(False, description="Compare with the true object, if the scan holds one.")
    until: Literal["look", "plan", "image"] = Field(
        "image",
        description="Without a model, where to stop: 'look' shows what the file holds, with pictures, and solves nothing; "
        "'plan' decides by trials what is unknown; their facts have what was found.",
        json_schema_extra=_OF_NO_MODEL,
    )
    output: Output = Field("npz", description="Format of an immediate answer.")
    deadline_s: float | None = Field(None, gt=0, le=1e6, description="Time limit.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Without a model: seed of the trials and batches.",
        json_schema_extra=_OF_NO_MODEL,
    )
    budget_s: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Without a model: limit on the processor seconds of the trials.",
        json_schema_extra=_OF_NO_MODEL,
    )
    uncertainty: bool = Field(
        False,
        description="Without a model: also standard deviations of amplitude and phase (docs/uncertainty.md).",
        json_schema_extra=_OF_NO_MODEL,
    )
    workers: int = Field(
        1,
        ge=1,
        description="Share the solution among so many workers, if the service allows it.",
        json_schema_extra=_OF_NO_MODEL,
    )


class Choices(Solver, Network, WaysToRead, _Common):
    """Options of a reconstruction. Settings of the solver that are given are kept and not decided."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get(SOLVER), dict):
            nested = {f"{SOLVER}.{name}": value for name, value in given[SOLVER].items()}
            return {name: value for name, value in given.items() if name != SOLVER} | nested
        return given

    def solver(self) -> dict[str, Any]:
        """The settings of the solver that were given, by their own names."""
        prefix = f"{SOLVER}__"
        named = sorted(name for name in self.model_fields_set if name.startswith(prefix))
        return {name.removeprefix(prefix): getattr(self, name) for name in named}

    @property
    def network(self) -> dict[str, Any]:
        """The settings of a network's image that were given."""
        return {name: getattr(self, name) for name in NETWORK if name in self.model_fields_set}

    @property
    def reading(self) -> dict[str, Any]:
        """What was chosen about reading the file."""
        return Reading(**{name: getattr(self, name) for name in WaysToRead.model_fields}).chosen()


def choices_of(way: Literal["model", "automatic"]) -> list[str]:
    """The choices that only this way has."""
    extras = {name: field.json_schema_extra for name, field in Choices.model_fields.items()}
    return [name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("only") == way]


class Reference(Choices):
    """A scan that is not sent: a file the service can read, that of an earlier job, with or without its settings, or a demo.
    Exactly one of the four."""

    path: str | None = Field(None, max_length=4096, description="Absolute path under a folder the service allows.")
    job: str | None = Field(
        None, max_length=64, description="An earlier job of the caller: its scan is used once more."
    )
    again: str | None = Field(
        None,
        max_length=64,
        description="An earlier job of the caller, once more: its scan and its settings, except those that stand beside this.",
    )
    refined: bool = Field(
        False,
        description="Of an earlier job without a model: begin with the probe and the positions that it found.",
    )
    demo: Literal[tuple(DEMOS)] | None = Field(None, description="A simulated scan that suits the model.")  # type: ignore[valid-type]

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"demo": "siemens"}, {"path": "/data/2026/scan_0042.h5"}]}
    )


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["https://ptycho-ray.invalid/problems/invalid"])
    title: str = Field(examples=["The scan or an option cannot be used"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["scan.npz: xcoords: missing key; found keys diff3d; expected xcoords"])
    field: str | None = None
    found: Any = None
    expected: Any = None
    hint: str | None = None
    retry_after_s: int | None = None
    instance: str | None = None

    model_config = ConfigDict(extra="allow")


class Cost(BaseModel):
    """What a reconstruction has cost so far."""

    patterns: int | None = Field(None, description="Once the scan has been read.")
    side: int | None = None
    cpu_s: float = Field(description="Processor seconds. Jobs that run at the same time share those of their process.")
    gpu_s: float = Field(description="Seconds of the GPU, shared likewise.")
    bytes: int = Field(description="Of its upload and results.")


class Estimate(BaseModel):
    """What a reconstruction is likely to cost; without an earlier one like it only its size is known."""

    patterns: int
    side: int
    cpu_s: float | None = None
    gpu_s: float | None = None
    bytes: int | None = None
    jobs: int = Field(description="Earlier reconstructions that this is the median of.")
    waiting: int = Field(description="Reconstructions that wait or run now.")


class QuotaView(BaseModel):
    """What the reconstructions of one name may take; null is without limit."""

    priority: int = Field(0, ge=-100, le=100)
    jobs_at_once: int | None = Field(
        None, ge=0, description="That wait or run; null: what the service allows everybody."
    )
    jobs_a_day: int | None = Field(None, ge=0, description="In any 24 hours.")
    bytes_kept: int | None = Field(None, ge=0, description="Uploads and results.")
    compute_s_a_day: float | None = Field(None, ge=0, description="Processor and GPU seconds in any 24 hours.")

    model_config = ConfigDict(extra="forbid")


class UsageView(BaseModel):
    """A quota, and what is used of it."""

    name: str
    quota: QuotaView
    used: dict[str, float]


class Reconstruction(BaseModel):
    """A reconstruction: waiting, running or ended."""

    id: str = Field(examples=["8f14e45fceea167a5a36dedd4bea2543"])
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str = Field(examples=["reconstructing"])
    progress: float = Field(ge=0, le=1)
    eta_s: float | None = Field(None, description="Estimated seconds to the end, once known.")
    model: str = Field(description="'automatic' if there is none.", examples=["automatic", "lines64@3"])
    source: str = Field(examples=["scan.npz"])
    created: str
    started: str | None = None
    finished: str | None = None
    given: dict[str, Any] = Field({}, description="Choices of the request that are not defaults.")
    attempt: int = Field(description="More than 1 if a replica was lost.")
    facts: dict[str, Any] | None = Field(
        None,
        description="Patterns, shape, times, errors against the true object. Without a model also the verdict (a sentence, "
        "whether the image is to be trusted, the figures), the lines of the plan, from when they are known, and the "
        "trials. Of a look, what `ptycho-ray info` says of the file.",
    )
    problem: ProblemDetails | None = None
    priority: int = Field(0, description="Waiting jobs of a higher one are done first.")
    kept_until: str | None = Field(
        None, description="When its files are deleted; earlier where the service is short of space (keep_bytes)."
    )
    cost: Cost
    links: dict[str, str] = Field(examples=[{"self": "/v1/reconstructions/8f14e45fceea167a5a36dedd4bea2543"}])

    @classmethod
    def of(cls, job: Job, base: str = "") -> Reconstruction:
        """The document of a job; ``base`` is the path that the whole interface lies under."""
        here = f"{base}/v1/reconstructions/{job.id}"
        links = {"self": here}
        if job.state == DONE and job.options.get("until", IMAGE) == IMAGE:
            forms = set(FORMATS) | (set(FILES) if job.model == AUTOMATIC else set())
            if (job.facts or {}).get("pixel_size_m") is None:
                forms.discard("cxi")  # its lengths are in metres
            links |= {form: f"{here}/result?output={form}" for form in FORMATS | FILES if form in forms}
        left = job.seconds_left(time.time())
        return cls(
            id=job.id,
            state=job.state,  # type: ignore[arg-type] # the record holds no other states
            stage=job.stage,
            progress=round(job.progress, 4),
            eta_s=None if left is None else round(left, 1),
            model=job.model.rpartition("@")[0],
            source=job.source_name,
            created=format_time(job.created) or "",
            started=format_time(job.started),
            finished=format_time(job.finished),
            given=given_of(job),
            attempt=job.attempt,
            facts=job.facts,
            priority=job.priority,
            kept_until=format_time(job.expires),
            cost=Cost(**cost_of(job)),
            problem=None if job.problem is None else ProblemDetails(**job.problem),
            links=links,
        )


def given_of(job: Job) -> dict[str, Any]:
    """The choices of a job by the names that a request has for them, as far as they are no defaults."""
    name, _, _ = job.model.rpartition("@")
    given = {} if job.model in (AUTOMATIC, LOOK) else {"model": name}
    for option, value in job.options.items():
        if option == SOLVER:
            given |= {f"{SOLVER}.{setting}": of for setting, of in value.items()}
        elif option in ("reading", "network"):
            given |= value
        elif option != "until" and value != _Common.model_fields[option].default:
            given[option] = value
    return given


class ModelSummary(BaseModel):
    """One version of a model."""

    name: str
    version: str
    state: Literal["good", "broken"]
    problem: str | None = None
    N: int | None = Field(default=None, description="Side of its probe.")
    sides: str | None = Field(
        default=None, description="Of the patterns that it takes.", examples=["a multiple of 8, at least 32"]
    )
    gridsize: int | None = None
    architecture: str | None = None


class ModelDetails(ModelSummary):
    """A version of a model with what its bundle tells."""

    created_at: str | None = None
    config: dict[str, Any] | None = None
    normalisation: dict[str, float] | None = None
    provenance: dict[str, Any] | None = Field(None, description="Training data, seed, versions.")
    figures: dict[str, Any] | None = Field(None, description="Losses of the training.")
    versions: list[str]


class NewToken(BaseModel):
    """A request for a token."""

    name: str = Field(min_length=1, max_length=100, examples=["beamline-7"])
    role: Literal["read", "submit", "admin"]
    days: float | None = Field(None, gt=0, le=36500, description="Lifetime; unlimited if omitted.")

    model_config = ConfigDict(extra="forbid")


class TokenView(BaseModel):
    """A token without its text, except when it is new."""

    id: str
    name: str
    role: str
    created: str
    expires: str | None
    token: str | None = Field(None, description="Shown only once.")


def format_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for its description; those that every route may have are added."""
    return {status: {"model": ProblemDetails, "content": {MEDIA_TYPE: {}}} for status in (401, 403, 429, *statuses)}
