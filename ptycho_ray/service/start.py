"""Running the service from one command, with its own Ray or on an existing cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptycho_ray.bundle import PRETRAINED_FILE, is_shipped
from ptycho_ray.config.training import PRETRAINED
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import jsonable
from ptycho_ray.service.database import AWAY, connect
from ptycho_ray.service.draining import accept, draining, only_one
from ptycho_ray.service.jobs import QUEUED, RUNNING, JobStore
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.own_ray import listening, open_to_others, own_ray
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import TokenStore

LOOPBACK = ("127.0.0.1", "localhost", "::1")
APPLICATION = "ptycho_ray"
#: How long the service may take to answer once everything of it runs.
ANSWER_S = 300.0
#: How often to look whether the service is drained; those who wait for the last image get it meanwhile.
LOOK_S = 2.0


def _nothing() -> str:
    return ""


def check_before_start(settings: ServiceSettings, host: str) -> list[str]:
    """Refuse to start what would be unsafe or useless; the usable models as NAME@VERSION. Without any the service reconstructs
    automatically.

    Raises:
        ConfigurationError: open to other machines without a token.
        InputError: there are models, and none of them can be loaded.
    """
    if host not in LOOPBACK and not settings.require_token:
        raise ConfigurationError(
            "other machines could use the service without a token", field="host", found=host, expected="127.0.0.1"
        )
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if settings.require_token and not TokenStore(connect(settings.database)).all():
        raise ConfigurationError(
            field="tokens",
            found="none",
            expected="at least one",
            hint=f"ptycho-ray token add NAME --role admin --data-dir {settings.data_dir}",
        )
    models = ModelStore(settings)
    usable = models.usable()
    broken = next(iter(models.all()), None)
    if not usable and (settings.models or broken is not None):
        problem = None if broken is None else models.check(broken).problem
        raise InputError(
            field="models", found="none that can be loaded" if problem is None else problem.detail, expected="a bundle"
        )
    return [f"{model.name}@{model.version}" for model in usable]


def run_service(
    settings: ServiceSettings, *, host: str, port: int, max_replicas: int, address: str | None, haproxy: bool
) -> None:
    """Serve until SIGINT or SIGTERM, then let running work finish (``drain_s``) and stop; or, once the service is drained
    (``draining.drain``), until all its work is done.

    Raises:
        ConfigurationError: the port is taken, or another service uses the data folder.
        RuntimeError: it does not start; the message says what it waited for, why that failed, and where the logs are.
    """
    _check_port(host, port)
    stop, ready = threading.Event(), threading.Event()

    def ask_to_stop(*_: object) -> None:
        if not ready.is_set():
            raise KeyboardInterrupt
        stop.set()

    def hear() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask_to_stop)

    hear()
    ray = own_ray(host if haproxy else None) if address is None else contextlib.nullcontext()
    with only_one(settings.data_dir), ray as folder:
        accept(settings.data_dir)
        waiting = Waiting()
        try:
            with waiting:
                _start(settings, host, port, max_replicas, address, folder, haproxy, waiting, hear)
            ready.set()
            print(_welcome(host, port, listening()), flush=True)
            jobs = JobStore(connect(settings.database))
            while not stop.wait(LOOK_S) and not (draining(settings.data_dir) and _all_done(jobs)):
                pass
        finally:
            from ray import serve, shutdown

            with contextlib.redirect_stdout(io.StringIO()):  # Ray reports the end of its own actors as failures
                serve.shutdown()
                shutdown()


def _all_done(jobs: JobStore) -> bool:
    with contextlib.suppress(*AWAY):
        counts = jobs.counts()
        return not counts[QUEUED] and not counts[RUNNING]
    return False


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                field="port",
                found=f"{port} ({error.strerror})",
                expected="a free one",
                hint="Choose another with --port",
            ) from error


def _start(
    settings: ServiceSettings,
    host: str,
    port: int,
    max_replicas: int,
    address: str | None,
    folder: Path | None,
    haproxy: bool,
    waiting: Waiting,
    hear: Callable[[], None],
) -> None:
    waiting.on("Ray")
    import ray  # reads its environment when it is loaded
    from ray import serve

    from ptycho_ray.service.deployments import scaled

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    own: dict[str, Any] = {} if folder is None else {"include_dashboard": False, "_temp_dir": str(folder / "ray")}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        hear()  # Ray has put handlers of its own in the place of ours
        waiting.on("the proxy")
        inner = "127.0.0.1" if haproxy and folder is not None else host  # HAProxy listens at ``host``, and nothing else
        serve.start(http_options={"host": inner, "port": port}, logging_config={"enable_access_log": False})
        waiting.on("the interface and the process that reconstructs", lambda: _states(serve.status()))
        args = jsonable(dataclasses.asdict(settings))
        serve.run(scaled(args, max_replicas), name=APPLICATION, route_prefix="/")
        waiting.on("the first answer")
        _wait_for_answer(host, port)
    except Exception as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        logs = "" if folder is None else f"; the logs are in {folder / 'ray' / 'session_latest' / 'logs'}"
        raise RuntimeError(
            f"the service did not start: after {waiting.seconds:.0f} s of waiting for {waiting.what}: {reason}{logs}"
        ) from error
    if folder is not None:
        others = {place: name for place, name in open_to_others(listening()).items() if not place.endswith(f":{port}")}
        if others:
            named = ", ".join(f"{place} ({name})" for place, name in others.items())
            raise RuntimeError(f"the service did not start: other machines could reach {named}")


def _states(status: Any) -> str:
    application = status.applications.get(APPLICATION)
    deployments = {} if application is None else application.deployments
    return ", ".join(f"{name} {found.status.value.lower()}" for name, found in deployments.items())


def _wait_for_answer(host: str, port: int) -> None:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    until = time.monotonic() + ANSWER_S
    while True:
        try:
            with urllib.request.urlopen(f"http://{name}:{port}/healthz", timeout=10):
                return
        except OSError as error:  # among them every status of HTTP but 200
            if time.monotonic() > until:
                raise TimeoutError(f"no answer at port {port} ({error})") from error
            time.sleep(0.2)


def _welcome(host: str, port: int, open_ports: dict[str, str]) -> str:
    """What is said when the service answers."""
    inner = sorted(place for place in open_ports if not place.endswith(f":{port}"))
    lines = [f"The service answers at http://{host}:{port}/ (documentation at /docs). Stop it with Ctrl-C."]
    if inner:
        lines.append(f"Open on this machine only, for its own processes: {', '.join(inner)} (docs/security.md)")
    return "\n".join(lines)


class Waiting:
    """Says every second on stderr what a start waits for."""

    def __init__(self, every_s: float = 1.0) -> None:
        self.every_s, self.what, self.detail = every_s, "", _nothing
        self._since, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._say, daemon=True)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._since

    def on(self, what: str, detail: Callable[[], str] = _nothing) -> None:
        """From now on ``what`` is waited for; ``detail`` is asked for more each time."""
        self.what, self.detail = what, detail

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _say(self) -> None:
        while not self._over.wait(self.every_s):
            if self.what:
                try:
                    more = self.detail()
                except Exception:  # what it asks may not be there yet
                    more = ""
                print(
                    f"{self.seconds:4.0f} s: waiting for {self.what}{more and f' ({more})'}",
                    file=sys.stderr,
                    flush=True,
                )


def named_models(words: tuple[str, ...]) -> dict[str, Path]:
    """Models from NAME=PATH, or from PATH with the name of its folder."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, place = word.partition("=")
        path = Path(place if equals else word)
        path = PRETRAINED_FILE if is_shipped(path) else path.resolve()
        if not equals and path == PRETRAINED_FILE:
            name = PRETRAINED
        elif not equals:
            name = path.parent.name if path.suffix == ".zip" else path.name
        if not path.exists():
            raise InputError(field="MODEL", found=str(path), expected="a bundle wts.h5.zip or its folder")
        if name in found:
            raise InputError(field="MODEL", found=f"two models named {name!r}", expected="NAME=PATH with other names")
        found[name] = path
    return found
