"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError, InputError

CONNECT_TIMEOUT_S = 5.0

#: How Ray behaves unless the user says otherwise. The controller of a training asks its workers at this interval whether
#: they have reported; Ray's own 2 s would be waited for at the end of every epoch.
RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextmanager
def connected(execution: ExecutionConfig, tell: Callable[[str], None] = lambda line: None) -> Iterator[bool]:
    """Be connected to a Ray cluster inside the block; True if it is one that this call has started.

    A connection that exists is used and left open. Otherwise the cluster is ``execution.address``, else that of the
    environment variable RAY_ADDRESS, else a new one on this machine that ends with the block and whose token only this
    process has.

    Args:
        tell: told what is waited for.

    Raises:
        ConfigurationError: Ray is not installed, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise ConfigurationError(
            "Ray is not installed", field="ray", found="nothing", expected="pip install 'ptycho-ray[cluster]'"
        ) from None
    address = execution.address or os.environ.get("RAY_ADDRESS")
    with environment(RAY_DEFAULTS):
        if ray.is_initialized():
            yield False
        elif address:
            tell(f"joining the Ray cluster at {address}")
            _join(address)
            try:
                yield False
            finally:
                ray.shutdown()
        else:
            _ensure_token()
            tell("starting Ray on this machine")
            started = ray.init(
                address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False
            ).address_info
            try:
                yield True
            except (InputError, KeyboardInterrupt):
                ray.shutdown()
                _forget_session(Path(started["session_dir"]))
                raise
            finally:
                ray.shutdown()
            _forget_session(Path(started["session_dir"]))


def _forget_session(folder: Path) -> None:
    """Remove what a cluster that this program had started left on disk. (After an error its logs stay.)"""
    shutil.rmtree(folder, ignore_errors=True)
    latest = folder.with_name("session_latest")
    with suppress(OSError):
        if latest.is_symlink() and latest.readlink().name == folder.name:
            latest.unlink()


def _join(address: str) -> None:
    import ray

    if address.startswith(("ray://", "http://", "https://")):
        raise ConfigurationError(
            "work is submitted to a remote cluster as a job",
            field="execution.address",
            found=address,
            expected="host:port of the cluster, or 'auto'",
            hint="ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/train.py ...",
        )
    host, _, port = address.rpartition(":")
    if address not in ("auto", "local"):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except (OSError, ValueError) as error:
            raise _unreachable(address, str(error)) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address, str(error).splitlines()[0]) from None


def _unreachable(address: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        "no Ray cluster responds there",
        field="execution.address",
        found=f"{address} ({reason})",
        expected="host:port of a running cluster, or 'auto' on one of its machines",
    )


def _ensure_token() -> None:
    """Let a cluster of this machine answer only to processes of this program, unless the user has arranged that himself.

    Ray would write a token that every user of the machine can read. It reads the variable once and keeps what it found,
    so it stays set for as long as the program runs.
    """
    arranged = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not arranged and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Give these variables to the processes that Ray starts, where the user has not set them himself."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
