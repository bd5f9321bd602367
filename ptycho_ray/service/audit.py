"""What the service writes down beside its results: who asked for what, and what went wrong. No token is ever among it."""

from __future__ import annotations

import json
import logging
import os
import re
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from ptycho_ray.service.tokens import PREFIX

log = logging.getLogger(__name__)

AUDIT_FILE, LOG_FILE = "audit.jsonl", "service.log"
LONGEST_TEXT = 300
#: A token that somebody put into an address instead of a header.
TOKEN = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{20,}}")


class AuditLog:
    """One line of JSON for each request, appended whole, so that several processes may share the file and it may be moved away
    at any time (logrotate). Only the service's user can read it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / AUDIT_FILE

    def write(self, facts: dict[str, Any]) -> None:
        """Append a line with the time (UTC). A full disk is reported in the log and stops no request."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {name: _short(value) for name, value in facts.items() if value is not None}
        line = json.dumps({"time": now} | known) + "\n"
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError as error:
            log.error("%s cannot be written: %s; lost: %s", self.path, error, line.strip())


def keep_log(folder: Path) -> None:
    """Also write what this process logs of the service to a file that only the service's user can read."""
    path = folder / LOG_FILE
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    handler = WatchedFileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"))
    root = logging.getLogger("ptycho_ray")
    root.setLevel(logging.INFO)
    root.addHandler(handler)


def _short(value: Any) -> Any:
    return TOKEN.sub(f"{PREFIX}...", value)[:LONGEST_TEXT] if isinstance(value, str) else value
