"""Running the service from one command, with its own Ray or on an existing cluster."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import Any

from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import jsonable
from ptycho_ray.service.database import connect
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import TokenStore

LOOPBACK = ("127.0.0.1", "localhost", "::1")
APPLICATION = "ptycho_ray"
#: Ray Serve behind HAProxy, which comes with it: it holds a sender back whose upload is faster than the disk, where Ray's own
#: proxy would keep what it has received in memory. The period is for load balancers in front, of which there is none.
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}

#: Ray Serve ends a proxy that is not ready after 5 s or does not answer for 10 s, and the start fails with it. A busy machine
#: takes longer.
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120"}


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
    """Serve until SIGINT or SIGTERM, then let running work finish (``drain_s``) and stop."""
    for name, value in (PATIENCE | (HAPROXY if haproxy else {})).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray  # reads its environment when it is loaded
    from ray import serve

    from ptycho_ray.service.deployments import scaled

    own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config={"enable_access_log": False})
        args = jsonable(dataclasses.asdict(settings))
        serve.run(scaled(args, max_replicas), name=APPLICATION, route_prefix="/")
        print(
            f"The service answers at http://{host}:{port}/ (documentation at /docs). Stop it with Ctrl-C.", flush=True
        )
        stop.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def named_models(words: tuple[str, ...]) -> dict[str, Path]:
    """Models from NAME=PATH, or from PATH with the name of its folder."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, place = word.partition("=")
        path = Path(place if equals else word).resolve()
        if not equals:
            name = path.parent.name if path.suffix == ".zip" else path.name
        if not path.exists():
            raise InputError(field="MODEL", found=str(path), expected="a bundle wts.h5.zip or its folder")
        if name in found:
            raise InputError(field="MODEL", found=f"two models named {name!r}", expected="NAME=PATH with other names")
        found[name] = path
    return found
