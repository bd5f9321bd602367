"""HAProxy as the service runs it, with the configuration that the installed Ray Serve writes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import PATIENCE_S, as_another_account, free_port, wait_for

from ptycho_ray.service import haproxy, own_ray

HOST = "127.0.0.1"


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """``(port, configuration file, socket)`` as Ray Serve writes it for a node without any replica."""
    ray_haproxy = pytest.importorskip("ray.serve._private.haproxy")
    from ray.serve.config import HTTPOptions

    port = free_port()
    folder = tmp_path / "node"
    config = ray_haproxy.HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "a"),
        metrics_socket_path=str(folder / "m"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
    )
    api = ray_haproxy.HAProxyApi(config, {}, str(folder / "cfg"))
    api._generate_config_file_internal()
    return port, folder / "cfg", folder / "a"


@pytest.fixture
def running(written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``(port, socket)`` of the HAProxy that is run in its place."""
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    port, path, admin = written
    script = own_ray.haproxy_environment(tmp_path, HOST)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    process = subprocess.Popen([script, "-db", "-f", str(path), "-dR"], stderr=subprocess.DEVNULL)
    try:
        wait_for(admin.exists, "the admin socket")
        wait_for(lambda: answers(port), "an answer")
        yield port, admin
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def status(raw: bytes) -> int:
    return int(raw.split(b" ")[1])


def test_nothing_but_the_service_listens_and_the_admin_socket_is_private(running: Any) -> None:
    port, admin = running
    assert set(own_ray.listening()) >= {f"127.0.0.1:{port}"}
    mine = {name for name, process in own_ray.listening().items() if process == "haproxy"}
    assert mine == {f"127.0.0.1:{port}"}
    assert own_ray.open_to_others(dict.fromkeys(mine, "")) == {}
    assert admin.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")
def test_another_account_cannot_speak_to_the_admin_socket(running: Any) -> None:
    _, admin = running
    for folder in [admin.parent, *admin.parent.parents]:  # so that nothing but the socket itself refuses
        if not folder.stat().st_mode & 0o001 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    assert as_another_account(lambda: invade(admin)) == "PermissionError"
    admin.chmod(0o666)
    assert as_another_account(lambda: invade(admin)) == "None"  # nothing else had kept it out


def invade(admin: Path) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(admin))


def test_errors_of_the_proxy_are_problems(running: Any) -> None:
    port, _ = running
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=PATIENCE_S)  # no replica is known
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["title"] == "The service is busy"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: a b\x01\r\n\r\n")
        assert status(line.recv(4096)) == 400  # HAProxy's own page: what is no request never reaches its error files


def test_headers_that_stop_coming_end_the_connection(written: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(haproxy, "HEADERS_S", 1)
    port, path, _ = written
    environment = own_ray.haproxy_environment(tmp_path, HOST)
    path.write_text(haproxy.closed(path.read_text(), tmp_path / "errors"))
    binary = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"]).read_text().split()[-2]
    process = subprocess.Popen([binary, "-db", "-f", str(path)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port), "an answer")
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ")
            assert status(line.recv(4096)) == 408
            assert line.recv(1) == b""
    finally:
        process.kill()
        process.wait()


def test_a_configuration_that_is_not_known_is_not_started(written: Any, tmp_path: Path) -> None:
    text = written[1].read_text()
    assert haproxy.closed(haproxy.closed(text, tmp_path), tmp_path) == haproxy.closed(text, tmp_path)
    assert "bind 192.0.2.2:" in haproxy.closed(text, tmp_path, "192.0.2.2")
    assert "bind [::1]:" in haproxy.closed(text, tmp_path, "::1")
    with pytest.raises(ValueError, match="listens on all addresses"):
        haproxy.closed(text + "listen more\n  bind *:1\n", tmp_path)
    with pytest.raises(ValueError, match="admin sockets"):
        haproxy.closed(text.replace("stats socket", "stats sockets"), tmp_path)
    with pytest.raises(ValueError, match="sections"):
        haproxy.closed(text.replace("frontend http_frontend", "frontend other"), tmp_path)
