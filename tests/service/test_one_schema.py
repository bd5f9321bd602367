"""Every setting of ``reconstruct`` and ``refine``, by each way into the service: the same job, and the image of the command."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from starlette.testclient import TestClient

import ptycho_ray.client
from ptycho_ray import workflow
from ptycho_ray.client import Client
from ptycho_ray.commands.automatic import AutomaticOptions
from ptycho_ray.commands.cli import main
from ptycho_ray.config import PRETRAINED
from ptycho_ray.config.reading import Reading
from ptycho_ray.config.training import OF_AN_IMAGE, InferenceConfig
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.service.api import make_app
from ptycho_ray.service.engine import LoadedModel, Options
from ptycho_ray.service.jobs import AUTOMATIC
from ptycho_ray.service.schemas import Choices
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.work import run_job

PATH = "/v1/reconstructions"
RAW = {"Content-Type": "application/octet-stream", "Prefer": "respond-async"}
#: What a setting needs beside it.
WITH: dict[str, dict[str, Any]] = {
    "slices": {"thickness_angstrom": 40.0},
    "thickness_angstrom": {"slices": 3},
    "slice_distance_px2": {"slices": 3},
    **{name: {"slices": 3, "thickness_angstrom": 40.0} for name in ("tilt_row_mrad", "tilt_column_mrad")},
    "depth_smoothing_slices": {"slices": 3, "thickness_angstrom": 40.0},
    "prior_strength": {"prior": PRETRAINED},
}
OF_A_FILE = {"positions": "places", "mask": "none", "units": "px", "rotation": 2.5, "select": "0:50", "drop": "1,2"}


class NoReplicas:
    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        return None

    async def predict(self, *_: Any) -> Any:
        raise AssertionError("no stream is opened")


def example(cls: type, name: str) -> Any:
    """A value of a setting that is not its default."""
    if name == "prior":
        return PRETRAINED  # the only one that a service has
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    hint = typing.get_type_hints(cls)[name]
    for kind in (hint, *typing.get_args(hint)):
        if typing.get_origin(kind) is Literal:
            return next(word for word in typing.get_args(kind) if word not in (field.default, "auto"))
    words = str(hint)
    if "bool" in words:
        return not field.default
    return 3 if "int" in words.lower() and "float" not in words.lower() else 0.125


def groups_of_settings() -> list[dict[str, Any]]:
    """All settings of the solver with examples, in as few groups as go together."""
    groups: list[dict[str, Any]] = []
    for field in dataclasses.fields(RefinementConfig):
        if field.name == "seed":
            continue  # one of everything, without a prefix
        wanted = {field.name: example(RefinementConfig, field.name)} | WITH.get(field.name, {})
        for group in [*groups, None]:
            if group is None:
                groups.append(wanted)
                break
            if any(group.get(name, value) != value for name, value in wanted.items()):
                continue
            try:
                RefinementConfig(**(group | wanted))
            except ConfigurationError:
                continue
            group |= wanted
            break
    return groups


GROUPS = groups_of_settings()


def words_of(solver: dict[str, Any]) -> list[str]:
    words = []
    for name, value in solver.items():
        option = f"--refinement.{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return words


@pytest.fixture
def service(tmp_path: Path, model_file: Path) -> Service:
    settings = ServiceSettings(data_dir=tmp_path / "data", models={"tiny": model_file}, require_token=False)
    return Service(settings, NoReplicas(), "here")


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def submit(http: TestClient, scan_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``submit(*words)`` is the command, at this service."""

    class Here(Client):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._http = http

        def close(self) -> None:
            pass

    monkeypatch.setattr(ptycho_ray.client, "Client", Here)

    def run(*words: str) -> None:
        assert main(["submit", str(scan_file), "--no-wait", *words]) == 0

    return run


def by_each_way(
    service: Service,
    http: TestClient,
    submit: Callable[..., None],
    scan: Path,
    choices: dict[str, Any],
    words: list[str],
) -> dict[str, Any]:
    """The options of the job, the same whether asked by query, form, JSON, client or command."""
    solver = choices.get("refinement", {})
    dotted = {name: value for name, value in choices.items() if name != "refinement"}
    dotted |= {f"refinement.{name}": value for name, value in solver.items()}
    as_text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in dotted.items()}
    content = scan.read_bytes()
    client = Client("http://127.0.0.1")
    client._http = http
    ways: dict[str, Callable[[], Any]] = {
        "query": lambda: http.post(PATH, params=as_text, content=content, headers=RAW),
        "form": lambda: http.post(
            PATH, data=as_text, files={"file": ("scan", content)}, headers={"Prefer": "respond-async"}
        ),
        "JSON": lambda: http.post(PATH, json=choices | {"demo": "lines"}, headers={"Prefer": "respond-async"}),
        "client": lambda: client.submit(scan, **choices),
        "command": lambda: submit(*words),
    }
    found = {}
    for way, ask in ways.items():
        answer = ask()
        assert getattr(answer, "status_code", 202) == 202, (way, answer.text)
        found[way] = service.jobs.recent(None, 1)[0].options
        service.jobs.cancel(service.jobs.recent(None, 1)[0].id)
    first = found["query"]
    assert all(options == first for options in found.values()), found
    return first


def test_the_schema_has_every_setting_of_the_commands() -> None:
    offered = {field.alias or name for name, field in Choices.model_fields.items()}
    wanted = {f"refinement.{field.name}" for field in dataclasses.fields(RefinementConfig)} - {"refinement.seed"}
    wanted |= set(OF_AN_IMAGE)
    wanted |= {field.name for field in dataclasses.fields(Reading)} - {"companion", "keys_only"}
    wanted |= {field.name.replace("budget", "budget_s") for field in dataclasses.fields(AutomaticOptions)}
    wanted -= {"prior"}  # short for refinement.prior
    assert wanted <= offered
    shaping = {field.name for field in dataclasses.fields(InferenceConfig)}
    others = {"model", "test_data_file", "model_path", "n_images", "debug", "output_dir", "backend"}
    assert shaping == set(OF_AN_IMAGE) | others


@pytest.mark.parametrize("number", range(len(GROUPS)))
def test_a_setting_of_the_solver_is_the_same_by_each_way_and_in_the_command(
    service: Service, http: TestClient, submit: Any, aside: Service, scan_file: Path, number: int,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    solver = GROUPS[number]
    own = {"seed": 7, "budget_s": 9.5, "uncertainty": True, "select": "0:50", "drop": "3", "rotation": 2.5}
    of_command = ["--seed", "7", "--budget", "9.5", "--uncertainty", "--select", "0:50", "--drop", "3"]
    words = [*of_command, "--rotation", "2.5", *words_of(solver)]
    options = by_each_way(service, http, submit, scan_file, own | {"refinement": solver}, words)
    assert options["refinement"] == solver
    asked: list[tuple[Any, dict[str, Any]]] = []

    def core(scan: Any, **wishes: Any) -> Any:
        asked.append((scan, {name: wishes[name] for name in ("seed", "budget_s", "uncertainty", "settings")}))
        raise InputError("enough")

    monkeypatch.setattr(workflow, "reconstruct_scan", core)
    done(aside, scan_file, options)
    assert main(["reconstruct", str(scan_file), *words, "--output-dir", str(tmp_path / "out")]) == 2
    (of_service, its), (of_command_line, theirs) = asked
    assert its == theirs
    for name in ("positions_px", "scan_index", "probe"):
        np.testing.assert_array_equal(getattr(of_service, name), getattr(of_command_line, name))
    np.testing.assert_array_equal(of_service.patterns.amplitude(), of_command_line.patterns.amplitude())


def test_all_settings_were_tried() -> None:
    tried = {name for group in GROUPS for name in group}
    assert tried | {"seed"} == {field.name for field in dataclasses.fields(RefinementConfig)}
    assert len(GROUPS) < 8


def test_a_setting_of_a_network_is_the_same_by_each_way(
    service: Service, http: TestClient, submit: Any, scan_file: Path
) -> None:
    network = {"n_groups": 9, "neighbor_count": 6, "enable_oversampling": True, "neighbor_pool_size": 8}
    own = network | {"model": "tiny", "n_subsample": 30, "subsample_seed": 5, "refinement_iterations": 2}
    words = []
    for name, value in own.items():
        words += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
    options = by_each_way(service, http, submit, scan_file, own, words)
    assert options["network"] == network
    assert (options["n_subsample"], options["subsample_seed"], options["refinement_iterations"]) == (30, 5, 2)


@pytest.fixture
def aside(tmp_path: Path) -> Service:
    """A service that nobody asks, whose jobs are carried out here."""
    return Service(ServiceSettings(data_dir=tmp_path / "aside", require_token=False, threads=1), NoReplicas(), "here")


def done(service: Service, scan: Path, options: dict[str, Any], loaded: LoadedModel | None = None) -> Any:
    """A job with these options, carried out."""
    folder = service.settings.data_dir / "scans"
    folder.mkdir(exist_ok=True)
    (folder / "scan").write_bytes(scan.read_bytes())
    limits = {"deadline_s": 1e6, "max_jobs": 10**6, "max_jobs_of_owner": 10**6}
    job, _ = service.jobs.create(
        owner="o", model=AUTOMATIC, options=options, source=str(folder / "scan"), source_name="s", **limits
    )
    attempt = service.jobs.claim(job.id, "w")
    assert attempt is not None
    run_job(job.id, attempt, loaded, service.jobs, service.settings)
    return service.jobs.get(job.id)


def image_of(service: Service, job: Any) -> Any:
    assert job.state == "done", job.problem
    with np.load(service.settings.job_folder(job.id) / "result.npz", allow_pickle=False) as result:
        return result["object"]


@pytest.mark.slow
def test_the_image_of_the_service_is_that_of_the_command(aside: Service, scan_file: Path, tmp_path: Path) -> None:
    solver = {"iterations": 6, "probe_modes": 2, "position_start": 2, "method": "accelerated"}
    words = ["--seed", "3", *words_of(solver), "--output-dir", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["reconstruct", str(scan_file), *words]) in (0, 3)
    job = done(aside, scan_file, vars(Options(seed=3, refinement=solver)))
    with np.load(tmp_path / "out" / "reconstruction.npz") as command:
        np.testing.assert_array_equal(image_of(aside, job), command["object"])


@pytest.mark.slow
def test_so_is_that_of_a_network(
    aside: Service, small_scan: Any, scan_file: Path, tmp_path: Path, write_model: Any
) -> None:
    model = write_model(tmp_path / "model", small_scan, gridsize=2)
    network = {"neighbor_count": 7, "n_groups": 40}
    words = ["--model-path", str(model), "--neighbor-count", "7", "--n-groups", "40", "--subsample-seed", "4"]
    words += ["--output-dir", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["reconstruct", str(scan_file), *words]) == 0
    loaded = LoadedModel.load(model, aside.settings)
    options = Options(subsample_seed=4, network=network)
    job = done(aside, scan_file, json.loads(json.dumps(vars(options))), loaded)
    with np.load(tmp_path / "out" / "reconstruction.npz") as command:
        np.testing.assert_allclose(image_of(aside, job), command["object"], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("side", [50, 63])
def test_patterns_of_any_side_are_taken(aside: Service, side: int, tmp_path: Path) -> None:
    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe
    from ptycho_ray.simulation.simulate import simulate_scan

    rng = np.random.default_rng(5)
    probe = make_probe("disc", side, rng, photons=1e5)
    positions = rng.uniform(side / 2 + 1, 2.5 * side - 2, (40, 2))
    simulate_scan(make_object("lines", (3 * side, 3 * side), rng), probe, positions, rng=rng).to_file(
        tmp_path / "a.npz"
    )
    job = done(aside, tmp_path / "a.npz", vars(Options(refinement={"iterations": 3}, budget_s=1.0)))
    assert image_of(aside, job).shape[0] > 2 * side
