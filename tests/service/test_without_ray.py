"""The interface in this process, with no replica behind it: what it serves without a model, and to whom."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from starlette.testclient import TestClient

from ptycho_ray.service.api import make_app
from ptycho_ray.service.database import connect
from ptycho_ray.service.page import own_files
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import TokenStore


class NoReplicas:
    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        raise AssertionError("no job is sent")

    async def predict(self, *_: Any) -> Any:
        raise AssertionError("no stream is opened")

    async def states(self) -> dict[str, dict[str, int]]:
        return {}


@pytest.fixture
def answers(tmp_path: Path, model_file: Path) -> Iterator[Callable[[bool], TestClient]]:
    """``answers(require_token)`` is a client of such a service."""

    def start(require_token: bool) -> TestClient:
        settings = ServiceSettings(data_dir=tmp_path, models={"tiny": model_file}, require_token=require_token)
        return TestClient(make_app(Service(settings, NoReplicas(), "here")), base_url="http://127.0.0.1")

    return start


@pytest.mark.parametrize(("require_token", "status"), [(False, 200), (True, 401)])
def test_a_token_is_asked_for_where_it_is_required(answers: Any, require_token: bool, status: int) -> None:
    with answers(require_token) as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/v1/models").status_code == status


@pytest.mark.parametrize("place", ["/", "/docs"])
def test_a_page_has_all_it_needs_here(answers: Any, place: str) -> None:
    """Scripts and styles come from this service, and are there."""
    with answers(True) as http:
        page = http.get(place)
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        needed = re.findall(r'(?:src|href)="(?!data:|#|docs")([^"]+)"', page.text)
        assert len(needed) >= 3
        for name in needed:
            assert not name.startswith(("http", "//"))
            assert http.get(f"/{name}").status_code == 200, name


def test_every_module_of_the_page_is_served_and_none_is_left_over(answers: Any) -> None:
    with answers(True) as http:
        wanted, seen = ["app.js"], {"theme.js", "docs.js"}
        while wanted:
            name = wanted.pop()
            module = http.get(f"/static/{name}")
            assert (module.status_code, module.headers["content-type"].split(";")[0]) == (200, "text/javascript"), name
            seen.add(name)
            for other in re.findall(r'(?:import|export)[\s\w{},*$]*?from ?"([^"]+)"', module.text):
                assert other.startswith("./"), (name, other)
                place = str(PurePosixPath(name).parent / other)
                wanted += [] if place in seen else [place]
        assert {name for name in own_files() if name.endswith(".js")} == seen
        assert http.get("/static/vendor/remake.sh").status_code == 404
        assert {table["kind"] for table in http.get("/static/colours.json").json().values()} == {
            "linear", "diverging", "cyclic",
        }  # fmt: skip


def test_other_sites_and_names_are_refused_without_a_token(answers: Any) -> None:
    with answers(False) as http:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            refused = http.get("/v1/models", headers=headers)
            assert refused.status_code == 403
            assert refused.headers["content-type"] == "application/problem+json"
        assert http.get("/v1/models", headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_guesses_of_one_caller_keep_no_other_out(answers: Any, tmp_path: Path) -> None:
    token = TokenStore(connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}")).add("alice", "read")[1]
    with answers(True) as http:
        guessed = [http.get("/v1/models", headers={"Authorization": "Bearer no"}).status_code for _ in range(40)]
        assert set(guessed) == {401, 429}
        assert http.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
