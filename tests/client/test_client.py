"""The client and the commands, against a running service with tokens."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers import PATIENCE_S, wait_for

from ptycho_ray.client import AsyncClient, Client, Preview, ServiceError, StreamError
from ptycho_ray.commands.cli import main
from ptycho_ray.errors import InputError


@pytest.fixture(scope="module")
def guarded(one_service: Any) -> Any:
    return one_service


@pytest.fixture(scope="module")
def token_of(one_service: Any) -> dict[str, str]:
    """A token of every role, and of another submitter."""
    return one_service.tokens


def status_of(call: Callable[[], Any]) -> int:
    with pytest.raises(ServiceError) as refused:
        call()
    return refused.value.status


def test_nothing_without_a_token(guarded: Any, token_of: dict[str, str], scan_file: Path) -> None:
    for token in (None, "wrong", token_of["read"] + "x"):
        with Client(guarded.url, token) as client:
            assert status_of(client.models) == 401
    answer = httpx.get(f"{guarded.url}/v1/models", timeout=PATIENCE_S)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert httpx.get(f"{guarded.url}/healthz", timeout=PATIENCE_S).status_code == 200
    assert httpx.get(f"{guarded.url}/metrics", timeout=PATIENCE_S).status_code == 401


def test_roles(guarded: Any, token_of: dict[str, str], scan_file: Path) -> None:
    with Client(guarded.url, token_of["read"]) as client:
        assert client.models()
        assert status_of(lambda: client.reconstruct(scan_file, model="tiny")) == 403
    with Client(guarded.url, token_of["submit"]) as client:
        image = client.reconstruct(scan_file, model="tiny")
        assert image.arrays()["object"].dtype == np.complex64
        headers = {"Authorization": f"Bearer {token_of['submit']}"}
        assert httpx.get(f"{guarded.url}/v1/tokens", headers=headers, timeout=PATIENCE_S).status_code == 403
    with Client(guarded.url, token_of["other"]) as client:
        assert status_of(lambda: client.job(image.job_id)) == 404
    with Client(guarded.url, token_of["admin"]) as client:
        assert client.job(image.job_id)["state"] == "done"


def test_an_admin_gives_and_takes_tokens(guarded: Any, token_of: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {token_of['admin']}"}
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=PATIENCE_S) as http:
        made = http.post("/v1/tokens", json={"name": "new", "role": "read"}).json()
        assert all(found["token"] is None for found in http.get("/v1/tokens").json())
        with Client(guarded.url, made["token"]) as client:
            assert client.models()
            assert http.delete(f"/v1/tokens/{made['id']}").status_code == 204
            assert status_of(client.models) == 401
        assert http.post("/v1/tokens", json={"name": "new", "role": "root"}).status_code == 422


def test_bodies_have_a_limit_whether_or_not_they_tell_their_size(guarded: Any, token_of: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {token_of['submit']}", "Content-Type": "application/octet-stream"}
    before = set(jobs_of(guarded))
    for content in (b"x" * 700_000, (b"x" * 100_000 for _ in range(7))):
        answer = httpx.post(f"{guarded.url}/v1/reconstructions", content=content, headers=headers, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (413, "too-large")
    assert not [folder for folder in set(jobs_of(guarded)) - before if (folder / "scan").exists()]


def jobs_of(service: Any) -> list[Path]:
    return list((service.data_dir / "jobs").glob("*"))


def test_progress_is_told(guarded: Any, token_of: dict[str, str], scan_file: Path) -> None:
    states: list[dict[str, Any]] = []
    with Client(guarded.url, token_of["submit"]) as client:
        image = client.reconstruct(scan_file, model="tiny", on_progress=states.append, output="png")
    assert image.content.startswith(b"\x89PNG")
    assert states[-1]["state"] == "done"


@pytest.mark.slow
def test_settings_of_the_solver_reach_it(guarded: Any, token_of: dict[str, str], scan_file: Path) -> None:
    states: list[dict[str, Any]] = []
    with Client(guarded.url, token_of["submit"]) as client:
        given = {"iterations": 5, "position_start": None}
        image = client.reconstruct(scan_file, seed=1, refinement=given, on_progress=states.append)
        assert states[-1]["facts"]["verdict"]
        options = json.loads(str(image.arrays()["provenance"]))["options"]
        assert (options["refinement"], options["seed"]) == (given, 1)
        with pytest.raises(ServiceError, match=r"refinement\.probe_modes"):
            client.submit(scan_file, refinement={"probe_modes": 0})


def test_asyncio_does_as_well(guarded: Any, token_of: dict[str, str], scan_file: Path) -> None:
    async def work() -> tuple[Any, Any, Any]:
        async with AsyncClient(guarded.url, token_of["submit"]) as client:
            job = await client.submit(scan_file, model="tiny")
            done = await client.wait(job["id"])
            image = await client.result(job["id"])
            both = await asyncio.gather(
                client.reconstruct(scan_file, model="tiny"), client.reconstruct(scan_file, model="tiny")
            )
            return done, image, both

    done, image, both = asyncio.run(work())
    assert done["facts"]["patterns"] == 60
    for other in both:
        np.testing.assert_allclose(other.arrays()["object"], image.arrays()["object"], atol=2e-5)


def test_errors_of_the_service_are_those_of_the_client(guarded: Any, token_of: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "junk.npz").write_bytes(b"PKjunk")
    with Client(guarded.url, token_of["submit"]) as client:
        with pytest.raises(ServiceError, match=r"junk\.npz") as refused:
            client.reconstruct(tmp_path / "junk.npz", model="tiny")
        assert refused.value.status == 422
        with pytest.raises(InputError, match="nothing"):
            client.reconstruct(tmp_path / "none.npz")
        with pytest.raises(InputError, match="one of"):
            client.submit()
        with pytest.raises(InputError, match="one of"):
            client.submit(tmp_path / "junk.npz", refined=True)


def test_a_service_that_is_not_there() -> None:
    with (
        Client("http://127.0.0.1:9", patience_s=0.3) as client,
        pytest.raises(ServiceError, match="cannot be reached.*ptycho-ray serve"),
    ):
        client.models()


def test_the_client_loads_neither_torch_nor_ray() -> None:
    code = "import sys, ptycho_ray.client; print([name for name in ('torch', 'ray') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_command_saves_an_image(
    guarded: Any, token_of: dict[str, str], scan_file: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PTYCHO_RAY_TOKEN", token_of["submit"])
    words = ["submit", str(scan_file), "--url", guarded.url, "--output", str(tmp_path / "image.npz"), "--json"]
    words += ["--model", "tiny"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["patterns"] == told["cost"]["patterns"] == 60
    assert main([*words, "--estimate"]) == 0
    likely = json.loads(capsys.readouterr().out)
    assert (likely["patterns"], likely["side"], likely["jobs"] > 0) == (60, 32, True)
    with np.load(tmp_path / "image.npz", allow_pickle=False) as result:
        assert result["object"].dtype == np.complex64
    assert main(["submit", str(scan_file), "--url", guarded.url, "--output", "image.txt"]) == 2
    monkeypatch.setenv("PTYCHO_RAY_TOKEN", "wrong")
    assert main(words) == 2  # the file is there already
    assert main([*words, "--overwrite"]) == 1


@pytest.mark.slow
def test_an_earlier_job_once_more_with_changes(
    guarded: Any, token_of: dict[str, str], scan_file: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """By the client, which also begins with what a job found, and by the command; asyncio does as well."""
    with Client(guarded.url, token_of["submit"]) as client:
        few = {"iterations": 4, "position_start": 1}
        first = client.submit(scan_file, drop="3", seed=2, budget_s=0.1, refinement=few)
        client.wait(first["id"])
        second = client.wait(client.again(first["id"], seed=5, refinement={"iterations": 6, "probe_start": None})["id"])
        assert second["given"] == {
            "drop": "3", "seed": 5, "budget_s": 0.1,
            "refinement.iterations": 6, "refinement.position_start": 1, "refinement.probe_start": None,
        }  # fmt: skip
        assert second["facts"]["patterns"] == 59
        refined = client.wait(client.again(first["id"], refined=True)["id"])
        assert "drop" not in refined["given"]  # it was dropped then
        assert refined["facts"]["patterns"] == 59
        found = client.result(first["id"], "scan").content
        assert (guarded.data_dir / "jobs" / refined["id"] / "scan").read_bytes() == found
        by_model = client.wait(client.again(first["id"], model="tiny", refinement={}, refinement_iterations=2)["id"])
        assert by_model["given"] == {
            "model": "tiny@1", "drop": "3", "refinement_iterations": 2,
            "refinement.iterations": 4, "refinement.position_start": 1,
        }  # fmt: skip
        assert client.again(by_model["id"], model=None)["model"] == "automatic"
        assert status_of(lambda: client.again(by_model["id"], refined=True)) == 409
    with Client(guarded.url, token_of["other"]) as client:
        assert status_of(lambda: client.again(first["id"])) == 404

    async def work() -> dict[str, Any]:
        async with AsyncClient(guarded.url, token_of["submit"]) as client:
            return await client.wait((await client.again(by_model["id"], evaluate=True))["id"])

    assert asyncio.run(work())["given"] == by_model["given"] | {"evaluate": True}
    monkeypatch.setenv("PTYCHO_RAY_TOKEN", token_of["submit"])
    words = ["submit", "--url", guarded.url, "--output", str(tmp_path / "image.npz"), "--json"]
    assert main([*words, "--like", by_model["id"], "--refine", "0"]) == 1  # nothing is refined with its settings then
    capsys.readouterr()
    assert main([*words, "--like", by_model["id"], "--refine", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    with Client(guarded.url, token_of["submit"]) as client:
        assert client.job(told["job"])["given"] == by_model["given"] | {"refinement_iterations": 1}
    for wrong in ([], [str(scan_file), "--like", "x"], ["--like", "x", "--estimate"], [str(scan_file), "--refined"]):
        assert main([*words, *wrong, "--overwrite"]) == 2


def test_the_command_makes_tokens(tmp_path: Path, capsys: Any) -> None:
    place = ["--data-dir", str(tmp_path), "--json"]
    assert main(["token", "add", "me", "--role", "read", *place]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["token"].startswith("ptycho_")
    assert main(["token", "rotate", made["id"], *place]) == 0
    capsys.readouterr()
    assert main(["token", "list", *place]) == 0
    listed = json.loads(capsys.readouterr().out)["tokens"]
    assert [token["name"] for token in listed] == ["me", "me"]
    assert "sha256" not in listed[0]
    assert main(["token", "remove", made["id"], *place]) == 0
    assert main(["token", "remove", made["id"], *place]) == 2


def push_all(stream: Any, scan: Any, piece: int = 7) -> None:
    amplitude = scan.patterns.amplitude()
    for start in range(0, len(scan), piece):
        stream.push(scan.positions_px[start : start + piece], amplitude[start : start + piece])


def test_a_stream_ends_in_the_same_image_as_the_file(
    guarded: Any, token_of: dict[str, str], small_scan: Any, scan_file: Path
) -> None:
    seen: list[Preview] = []
    with Client(guarded.url, token_of["submit"]) as client:
        start: dict[str, Any] = {"domain": "amplitude", "counts_are_photons": small_scan.counts_are_photons}
        start |= {"model": "tiny", "probe": small_scan.probe}
        with client.stream(N=32, on_preview=seen.append, preview_interval_s=0.05, **start) as stream:
            push_all(stream, small_scan)
            wait_for(lambda: seen and seen[-1].patterns == 60, "the preview of the whole scan")
        assert stream.job is not None
        streamed = client.result(stream.job["id"]).arrays()
        sent = client.reconstruct(scan_file, model="tiny").arrays()
    np.testing.assert_array_equal(streamed["object"], sent["object"])
    np.testing.assert_array_equal(streamed["origin_px"], sent["origin_px"])
    assert seen[-1].next == 60
    assert seen[-1].image.shape[0] > 32


def test_a_broken_connection_is_taken_up_again(guarded: Any, token_of: dict[str, str], small_scan: Any) -> None:
    async def work() -> tuple[int, dict[str, Any]]:
        async with AsyncClient(guarded.url, token_of["submit"]) as client:
            async with client.stream(N=32, model="tiny", domain="amplitude") as stream:
                amplitude = small_scan.patterns.amplitude()
                for start in range(0, 60, 6):
                    await stream.push(small_scan.positions_px[start : start + 6], amplitude[start : start + 6])
                    if start in (12, 36):
                        await cut(stream)
            assert stream.job is not None
            return stream.connections, stream.job

    async def cut(stream: Any) -> None:
        before = stream.connections
        stream.socket.transport.abort()
        while stream.connections == before:
            await asyncio.sleep(0.05)

    connections, job = asyncio.run(work())
    assert connections >= 3
    assert job["facts"]["patterns"] == 60


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"N": 64, "model": "tiny"}, "side 32"),
        ({"N": 32, "model": "none"}, "no model"),
        ({"N": 32, "dtype": "float64"}, "dtype"),
        ({"N": 32, "probe": np.zeros((32, 32))}, "probe"),
        ({"N": 32, "choices": {"refinement": {"iterations": 0}}}, "iterations"),
    ],
)
def test_a_stream_that_cannot_be(guarded: Any, token_of: dict[str, str], start: dict[str, Any], said: str) -> None:
    with (
        Client(guarded.url, token_of["submit"]) as client,
        pytest.raises(StreamError, match=said),
        client.stream(**start),
    ):
        raise AssertionError("it began")


def test_a_stream_needs_the_role(guarded: Any, token_of: dict[str, str]) -> None:
    for token in (None, token_of["read"]):
        with Client(guarded.url, token, patience_s=1) as client, pytest.raises(StreamError), client.stream(N=32):
            raise AssertionError("it began")
