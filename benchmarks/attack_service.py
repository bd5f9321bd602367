"""Attacks on a service that this program starts: by another account of the machine, from the network, without and with
tokens, by files, by HTTP itself, and by killing its proxy. Writes the table of docs/security.md. As root, for it acts as the
account nobody.

python benchmarks/attack_service.py [--write]
"""

from __future__ import annotations

import argparse
import bz2
import io
import json
import os
import pickle
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import h5py
import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- attacks: begin -->\n", "<!-- attacks: end -->")
RAW = {"Content-Type": "application/octet-stream"}
POST = "/v1/reconstructions"
MODEL = f"{POST}?model=tiny"
NOBODY = 65534
UPLOADS = 16


class Target:
    """The service, its secrets, and what attackers use."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.allowed, self.out = folder, folder / "data", folder / "scans", folder / "out"
        self.data.mkdir(0o700)
        self.allowed.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        model, self.scan, self.arrays = make_model(folder)
        from ptycho_ray.service.database import connect
        from ptycho_ray.service.tokens import TokenStore

        store = TokenStore(connect(f"sqlite:///{self.data / 'jobs.sqlite'}"))
        self.tokens = {name: store.add(name, role)[1] for name, role in
                       (("alice", "submit"), ("mallory", "submit"), ("reader", "read"), ("root", "admin"))}  # fmt: skip
        words = ["serve", f"tiny={model}", "--data-dir", self.data, "--port", self.port, "--threads", 1]
        words += ["--require-token", "--allow", self.allowed, "--max-body-mib", 8]
        with self.out.open("ab") as out:
            command = [sys.executable, "-m", "ptycho_ray", *map(str, words)]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        while "answers at" not in self.out.read_text():
            assert self.process.poll() is None, self.out.read_text()
            time.sleep(0.5)

    def haproxy(self) -> int:
        from ptycho_ray.service.own_ray import family

        return next(pid for pid, name in family(self.process.pid).items() if name == "haproxy")

    def private(self) -> Path:
        words = Path(f"/proc/{self.haproxy()}/cmdline").read_bytes().split(b"\0")
        return Path(words[words.index(b"-f") + 1].decode()).parents[1]

    def ports(self) -> list[int]:
        from ptycho_ray.service.own_ray import listening

        return sorted(int(place.rpartition(":")[2]) for place in listening(self.process.pid))

    def ask(self, method: str, path: str, token: str | None = "mallory", **how: Any) -> httpx.Response:
        headers = dict(how.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {self.tokens.get(token, token)}"
        return httpx.request(method, self.url + path, headers=headers, timeout=180, **how)

    def send(self, content: bytes, path: str = MODEL, **headers: str) -> httpx.Response:
        return self.ask("POST", path, content=content, headers=RAW | headers)

    def raw(self, head: str, body: bytes = b"", patience_s: float = 60) -> str:
        """The first line of what is answered to these very bytes, or that the connection was closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience_s) as line:
            line.sendall(head.replace("TOKEN", self.tokens["mallory"]).encode() + body)
            answer = line.recv(65536)
        return " ".join(answer.split(b"\r\n")[0].decode("latin-1").split()[1:2]) or "closed"

    def npz(self, **changes: Any) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **(self.arrays | changes))
        return stream.getvalue()

    def hdf5(self, change: Callable[[h5py.File], None]) -> bytes:
        path = self.folder / "made.h5"
        with h5py.File(path, "w") as file:
            for name, value in self.arrays.items():
                if name != "diff3d":
                    file[name] = value
            change(file)
        return path.read_bytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_model(folder: Path) -> tuple[Path, bytes, dict[str, Any]]:
    """A model with random weights, a scan, and its arrays."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import make_scan
    from ray_fixtures import make_model

    scan = make_scan()
    scan.to_file(folder / "scan.npz")
    with np.load(folder / "scan.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    return make_model(folder / "model", scan), (folder / "scan.npz").read_bytes(), kept


def as_nobody(attempt: Callable[[], Any]) -> str:
    from helpers import as_another_account

    return as_another_account(attempt)


def told(answer: httpx.Response) -> str:
    """Status, and the field or the title of a problem."""
    kind = answer.headers.get("content-type", "")
    if kind != "application/problem+json":
        return f"{answer.status_code} {kind}"
    document = answer.json()
    return f"{answer.status_code} {document.get('field') or document['title']}"


def noted(answer: httpx.Response) -> str:
    """The same, and whether an image came with a note on what was left out."""
    if answer.status_code != 200:
        return told(answer)
    notes = answer.json().get("facts", {}).get("notes", [])
    return "200, left out with a note" if any("position" in note for note in notes) else "200 without a word"


def connect_unix(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))


class _Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def call_grpc(port: int, method: str, content: bytes) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(content, timeout=5)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "answered"


def by_another_account(t: Target) -> list[tuple[str, str, str]]:
    private, job = t.private(), t.ask("POST", f"{MODEL}&output=json", "alice", content=t.scan, headers=RAW).json()["id"]
    admin = next(place for place in private.rglob("a") if place.is_socket())
    logs = next(place for place in private.rglob("raylet.out"))
    sockets = [place for place in private.rglob("*") if place.is_socket()]
    mark = Path(tempfile.gettempdir()) / f"attacked-{secrets.token_hex(4)}"
    from ray.serve.generated import serve_pb2

    bad = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(_Code(mark))).SerializeToString()
    rows = [
        ("list the folder of its Ray and HAProxy", as_nobody(lambda: os.listdir(private)), "PermissionError"),
        ("open HAProxy's admin socket, to send requests elsewhere", as_nobody(lambda: connect_unix(admin)), "Perm"),
        ("connect to the sockets of Ray", each(as_nobody(lambda s=s: connect_unix(s)) for s in sockets), "Perm"),
        ("read the logs of Ray", as_nobody(logs.read_text), "PermissionError"),
        ("list the data folder", as_nobody(lambda: os.listdir(t.data)), "PermissionError"),
        ("read the job database, with the hashes of the tokens",
         as_nobody((t.data / "jobs.sqlite").read_bytes), "PermissionError"),
        ("read the audit log", as_nobody((t.data / "audit.jsonl").read_text), "PermissionError"),
        ("read an upload", as_nobody((t.data / "jobs" / job / "scan").read_bytes), "PermissionError"),
        ("replace a result", as_nobody(lambda: (t.data / "jobs" / job / "result.npz").write_bytes(b"")), "Perm"),
        ("read Ray's token from the environment of a process",
         as_nobody(Path(f"/proc/{t.process.pid}/environ").read_bytes), "PermissionError"),
        ("have it drained, by the file that says so", as_nobody((t.data / "draining").touch), "PermissionError"),
        ("read a back-up of the job database", as_nobody(backup_of(t).read_bytes), "PermissionError"),
        ("end its HAProxy", as_nobody(lambda: os.kill(t.haproxy(), signal.SIGTERM)), "PermissionError"),
        ("submit a job to each port of Ray over HTTP", each(as_nobody(lambda p=p: job_of_ray(p)) for p in t.ports()),
         r"(4\d\d|405|501|no HTTP|refused|, )+"),
        ("ask Ray's GCS for its nodes, at each port", each(as_nobody(
            lambda p=p: call_grpc(p, "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", b"")) for p in t.ports()),
         r"(UNA\w+|UNIMPLEMENTED|, )+"),
        ("ask for the jobs at each port, past the proxy", each(as_nobody(lambda p=p: jobs_at(p)) for p in t.ports()),
         r"(401|404|counters|no HTTP|, )+"),
    ]  # fmt: skip
    for port in t.ports():
        as_nobody(lambda port=port: call_grpc(port, "/ray.serve.ASGIService/HandleRequest", bad))
    rows.append(("send code as a pickle to each port", "it ran" if mark.exists() else "it never ran", "it never ran"))
    return rows


def backup_of(t: Target) -> Path:
    """A back-up in a folder that everybody can read."""
    from ptycho_ray.service.backup import back_up

    path = t.folder / "jobs.backup"
    back_up(f"sqlite:///{t.data / 'jobs.sqlite'}", path)
    return path


def each(outcomes: Any) -> str:
    return ", ".join(sorted(set(outcomes)))


def job_of_ray(port: int) -> str:
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/api/jobs/", json={"entrypoint": "id"}, timeout=10)
    except httpx.HTTPError:
        return "no HTTP"
    return "refused" if answer.text.startswith("# HELP") else str(answer.status_code)


def jobs_at(port: int) -> str:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{POST}", timeout=10)
    except httpx.HTTPError:
        return "no HTTP"
    return "counters" if answer.text.startswith("# HELP") else str(answer.status_code)


def from_the_network(t: Target) -> list[tuple[str, str, str]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the address that others would use
        outside = probe.getsockname()[0]

    def reach(port: int) -> str:
        with socket.socket() as line:
            line.settimeout(5)
            return "open" if line.connect_ex((outside, port)) == 0 else "closed"

    return [
        (f"connect to each of its {len(t.ports())} ports from another address", each(map(reach, t.ports())), "closed"),
        ("HAProxy's statistics (8404) and counters (9101)", each(map(reach, (8404, 9101))), "closed"),
    ]


def second_job(t: Target, delete: bool = False) -> str:
    name = "deleter" if delete else "greedy"
    from ptycho_ray.service.database import connect
    from ptycho_ray.service.tokens import TokenStore

    store = TokenStore(connect(f"sqlite:///{t.data / 'jobs.sqlite'}"))
    t.tokens[name] = store.add(name, "submit")[1]
    t.ask("PUT", f"/v1/quotas/{name}", "root", json={"jobs_a_day": 1})
    asked = f"{MODEL}&output=json"
    first = t.ask("POST", asked, name, content=t.scan, headers=RAW).json()["id"]
    if delete:
        t.ask("DELETE", f"{POST}/{first}", name)
    return told(t.ask("POST", asked, name, content=t.scan, headers=RAW))


def by_strangers(t: Target) -> list[tuple[str, str, str]]:
    alice, other = t.tokens["alice"], {"Origin": "http://evil.example"}
    hello = "GET /v1/streams HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    hello = (
        hello.replace("PORT", str(t.port))
        + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    )
    mine = t.ask("POST", f"{MODEL}&output=json", "alice", content=t.scan, headers=RAW | {"Idempotency-Key": "k"}).json()
    stolen = t.ask("POST", f"{MODEL}&output=json", content=t.scan, headers=RAW | {"Idempotency-Key": "k"}).json()
    job = f"{POST}/{mine['id']}"
    short = told(t.ask("GET", "/v1/models", alice[:-1]))
    guesses = [t.ask("GET", "/v1/models", f"ptycho_{secrets.token_urlsafe(32)}").status_code for _ in range(40)]
    during = told(t.ask("GET", "/v1/models", "reader"))[:3]
    return [
        ("the models without a token", told(t.ask("GET", "/v1/models", None)), "401"),
        ("the counters without a token", told(t.ask("GET", "/metrics", None)), "401"),
        ("a token in the address", told(t.ask("GET", f"/v1/models?token={alice}", None)), "401"),
        ("a token without its last letter", short, "401"),
        ("40 guesses", each(map(str, guesses)), "401, 429"),
        ("keeping others out by these guesses: a valid token then", during, "200"),
        ("a stream without a token", t.raw(hello + "\r\n"), "40[13]"),
        ("a stream opened by the page of another site", t.raw(hello + "Origin: http://evil.example\r\n\r\n"), "403"),
        ("an upload by the page of another site", told(t.ask("POST", MODEL, headers=RAW | other, content=t.scan)), "403"),
        ("the same from a file on disk (Origin: null)",
         told(t.ask("POST", MODEL, headers=RAW | {"Origin": "null"}, content=t.scan)), "403"),
        ("an upload with a token that may only read",
         told(t.ask("POST", MODEL, "reader", headers=RAW, content=t.scan)), "403"),
        ("the list of tokens, as a submitter", told(t.ask("GET", "/v1/tokens")), "403"),
        ("a new admin token, as a submitter",
         told(t.ask("POST", "/v1/tokens", json={"name": "x", "role": "admin"})), "403"),
        ("a quota of one's own choice, as a submitter",
         told(t.ask("PUT", "/v1/quotas/mallory", json={"priority": 100})), "403"),
        ("what somebody else uses", told(t.ask("GET", "/v1/usage?name=alice")), "403"),
        ("a second job where one a day is allowed", second_job(t), "429"),
        ("the same after deleting the first", second_job(t, delete=True), "429"),
        ("the job of somebody else", told(t.ask("GET", job)), "404"),
        ("the image of somebody else", told(t.ask("GET", f"{job}/result")), "404"),
        ("cancelling the job of somebody else", told(t.ask("DELETE", job)), "404"),
        ("the Idempotency-Key of somebody else", "their job" if stolen["id"] == mine["id"] else "a job of its own", "a job"),
        ("the jobs of others in the list",
         "in it" if mine["id"] in t.ask("GET", POST).text else "not in it", "not in it"),
    ]  # fmt: skip


def by_paths(t: Target) -> list[tuple[str, str, str]]:
    (t.allowed / "link").symlink_to("/etc/passwd")
    (t.allowed / "folder").symlink_to("/etc")
    os.mkfifo(t.allowed / "fifo")
    paths = ["/etc/passwd", f"{t.allowed}/../data/jobs.sqlite", f"{t.allowed}/link", f"{t.allowed}/folder/passwd",
             f"{t.allowed}/fifo", "/proc/self/environ", "http://127.0.0.1:1/", "s3://bucket/x", "runs:/1/model"]  # fmt: skip
    rows = [(f"the path {path.replace(str(t.allowed), 'ALLOWED')}",
             told(t.ask("POST", POST, json={"path": path, "model": "tiny"})), "403|404") for path in paths]  # fmt: skip
    models = ["../../etc/passwd", "http://127.0.0.1:1/m", "runs:/1/model", "tiny@../1", "x" * 200]
    return rows + [(f"the model {name[:24]}", told(t.ask("POST", f"{POST}?model={name}", headers=RAW, content=t.scan)), "422")
                   for name in models]  # fmt: skip


def by_files(t: Target) -> list[tuple[str, str, str]]:
    shape, secret = t.arrays["diff3d"].shape, t.folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = t.arrays["diff3d"]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(secret), "data", shape=shape)
    stored = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    liar, zeros = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(liar, "w") as archive:
        for name, value in t.arrays.items():
            if name != "diff3d":
                part = io.BytesIO()
                np.lib.format.write_array(part, value)
                archive.writestr(f"{name}.npy", part.getvalue())
        header = io.BytesIO()
        lie: Any = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 64, 64)}
        np.lib.format.write_array_header_1_0(header, lie)
        archive.writestr("diff3d.npy", header.getvalue() + bytes(1000))
    np.savez_compressed(zeros, **(t.arrays | {"diff3d": np.zeros((160_000, 32, 32), np.float32)}))
    far, holes = t.arrays["xcoords"].copy(), t.arrays["xcoords"].copy()
    far[0], holes[0] = 1e9, np.nan
    one = bz2.compress(b"PK\x03\x04" + bytes(10**8))
    files = {
        "HDF5 with an external link": t.hdf5(lambda f: f.__setitem__("diff3d", h5py.ExternalLink(str(secret), "data"))),
        "HDF5 with a virtual dataset": t.hdf5(lambda f: f.create_virtual_dataset("diff3d", layout)),
        "HDF5 whose data lies in /etc/passwd": t.hdf5(
            lambda f: f.create_dataset("diff3d", shape, "f4", external=stored)
        ),
        "HDF5 that claims 4 PB": t.hdf5(
            lambda f: f.create_dataset("diff3d", (10**9, 1024, 1024), "f4", chunks=(1, 64, 64))
        ),
        "NPZ with a pickle": t.npz(diff3d=np.array([_Code(t.folder / "ran")], dtype=object)),
        "NPZ that claims 18 PB": liar.getvalue(),
        "NPZ that inflates a thousandfold": zeros.getvalue(),
        "22 kB of bz2 that inflate to 20 GB": one + bz2.compress(bytes(10**8)) * 199,
        "a position a billion pixels away": t.npz(xcoords=far),
        "a position that is no number": t.npz(xcoords=holes),
        "patterns of zeros": t.npz(diff3d=np.zeros_like(t.arrays["diff3d"])),
        "patterns of infinities": t.npz(diff3d=np.full_like(t.arrays["diff3d"], np.inf)),
        "half a scan": t.scan[: len(t.scan) // 2],
        "random bytes": secrets.token_bytes(100_000),
        "nothing": b"",
    }
    asked = f"{MODEL}&output=json"
    rows = [(name, noted(t.send(content, asked)), "4(00|13|22)|200, left out") for name, content in files.items()]
    rows.append(
        ("and code from the pickle", "it ran" if (t.folder / "ran").exists() else "it never ran", "it never ran")
    )
    return rows


def by_http(t: Target) -> list[tuple[str, str, str]]:
    start = f"POST {MODEL} HTTP/1.1\r\nHost: 127.0.0.1:{t.port}\r\nAuthorization: Bearer TOKEN\r\n{'Content-Type'}: "
    start += "application/octet-stream\r\n"
    inner = (
        f"GET /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {t.tokens['mallory']}\r\n\r\n".encode()
    )
    idle = [socket.create_connection(("127.0.0.1", t.port)) for _ in range(200)]
    for line in idle[::2]:
        line.sendall(b"GET / HTTP/1.1\r\nX: ")
    rows = [
        ("200 connections that do not speak or stop in the headers: another request", told(t.send(t.scan))[:3], "200"),
        ("headers that stop", t.raw("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: "), "408"),
        ("a body that stops", t.raw(start + "Content-Length: 100000\r\n\r\n", b"PK"), "408"),
        ("a body of 9 MiB where 8 are allowed", told(t.send(bytes(9 * 2**20))), "413"),
        ("the same without its length",
         told(t.ask("POST", MODEL, headers=RAW, content=iter([bytes(2**20)] * 9))), "413"),
        ("a length and chunks together, with a second request inside",
         t.raw(start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n" + inner), "400"),
        ("two lengths", t.raw(start + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"12345"), "400"),
        ("an unknown transfer encoding", t.raw(start + "Transfer-Encoding: xchunked\r\n\r\n", b"0\r\n\r\n"), "4|501"),
        ("headers of 64 kB", t.raw(start + f"X-a: {'a' * 65536}\r\n\r\n"), "400|431|closed"),
        ("a host that is none", t.raw("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), "400"),
        ("a line break in a header's value", t.raw(start + "X-File-Name: a\rSet-Cookie: x\r\n\r\n"), "400"),
        ("JSON nested 20,000 deep", told(t.ask("POST", POST, content="[" * 20_000,
         headers={"Content-Type": "application/json"})), "4"),
        ("ten billion iterations", told(t.send(t.scan, f"{MODEL}&refinement_iterations=10000000000")), "422"),
        ("a script as the name of the file",
         told(t.send(b"junk", MODEL, **{"X-File-Name": "<script>alert(1)</script>"})), "422"),
    ]  # fmt: skip
    for line in idle:
        line.close()
    return rows


def by_death(t: Target) -> list[tuple[str, str, str]]:
    def upload(number: int) -> str:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                answer = t.ask("POST", MODEL, content=t.scan, headers=RAW | {"Idempotency-Key": f"death {number}"})
            except httpx.TransportError:
                time.sleep(0.5)
                continue
            if answer.status_code not in (429, 502, 503):
                return str(answer.status_code)
            time.sleep(0.5)
        return "lost"

    with ThreadPoolExecutor(UPLOADS) as pool:
        asked = [pool.submit(upload, number) for number in range(UPLOADS)]
        time.sleep(0.7)
        os.kill(t.haproxy(), signal.SIGKILL)
        outcome = each(one.result() for one in asked)
    token = [text.encode() for text in t.tokens.values()]
    kept = [*t.data.glob("*"), *t.private().rglob("*"), t.out]
    leaks = [place.name for place in kept if place.is_file() and any(text in place.read_bytes() for text in token)]
    return [
        (f"kill HAProxy under {UPLOADS} uploads, each tried again with its key", outcome, "200"),
        ("look for a token in every log, the job database and the output", each(leaks) or "none", "none"),
    ]


KINDS = {
    "another account": by_another_account,
    "the network": from_the_network,
    "a stranger": by_strangers,
    "a path or name": by_paths,
    "a file": by_files,
    "HTTP": by_http,
    "death and logs": by_death,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/security.md")
    options = parser.parse_args()
    lines, through, count = ["| by | attempt | what happened |", "| --- | --- | --- |"], [], 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # so that only the service's own folders keep the other account out
        target = Target(Path(folder))
        try:
            for kind, attempts in KINDS.items():
                for attempt, outcome, expected in attempts(target):
                    count += 1
                    held = re.match(expected, outcome) is not None
                    through += [] if held else [f"{attempt}: {outcome}"]
                    print(f"{'held' if held else 'THROUGH':7} {kind}: {attempt}: {outcome}", flush=True)
                    lines.append(f"| {kind} | {attempt} | {outcome}{'' if held else ' **(came through)**'} |")
        finally:
            target.process.send_signal(signal.SIGINT)
            target.process.wait()
    print(json.dumps({"attempts": count, "through": through}))
    if options.write:
        page = ROOT / "docs/security.md"
        before, _, rest = page.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        page.write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after)
    sys.exit(1 if through else 0)


if __name__ == "__main__":
    main()
