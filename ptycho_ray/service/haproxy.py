"""Ray Serve's HAProxy, closed to everybody but the service.

Ray Serve starts HAProxy with an admin socket that any account may write to (whoever does can send requests, tokens included,
elsewhere), with pages of statistics on all addresses, without a limit for headers that stop coming, and with errors that are no
problem details; no option changes that. So this file is run in the place of HAProxy: it rewrites the configuration and then
becomes HAProxy. What it does not recognise it does not start.

It is run at each change of the replicas, so it imports the standard library only.
"""

import os
import re
import sys
from pathlib import Path

HEADERS_S = 30
"""The longest time that a request's headers may take."""
UNASKED = ("frontend prometheus", "listen stats")
"""Sections with ports that nobody asked for; the service has its own /metrics."""
OPEN_BIND = re.compile(r"\s*bind\s+(\*|:|0\.0\.0\.0|\[)")
REPLACED = ("errorfile ", "timeout http-request ")


def closed(configuration: str, errors: Path, host: str = "127.0.0.1") -> str:
    """The configuration of Ray Serve, changed so that it is safe. ``errors`` holds an answer ``STATUS.http`` for each status;
    HAProxy alone listens at ``host``, for Ray Serve would open the ports behind it there too.

    Raises:
        ValueError: it is not laid out as expected, so that it cannot be said to be safe.
    """
    text, sockets = re.subn(r"(?m)^(\s*stats socket \S+ mode) \d+ ", r"\1 600 ", configuration)
    if sockets != 1:
        raise ValueError(f"{sockets} admin sockets; expected 1")
    sections = re.split(r"(?m)^(?=[a-z])", text)
    names = [" ".join(section.split("\n", 1)[0].split()) for section in sections]
    kept = []
    for name, section in zip(names, sections, strict=True):
        if name in UNASKED:
            continue
        lines = section.split("\n")
        if name == "defaults":
            lines = [line for line in lines if not line.strip().startswith(REPLACED)]
            files = sorted(errors.glob("*.http"))
            more = [f"timeout http-request {HEADERS_S}s", *(f"errorfile {file.stem} {file}" for file in files)]
            lines[1:1] = [f"    {line}" for line in more]
        elif name == "backend default_backend":  # before it has been told where the service is
            lines = [lines[0], f"    http-request return status 503 errorfile {errors / '503.http'}", ""]
        elif name == "frontend http_frontend":
            place = f"[{host}]" if ":" in host else host
            lines = [re.sub(r"^(\s*bind )\S+:(\d+)$", rf"\g<1>{place}:\2", line) for line in lines]
        elif any(OPEN_BIND.match(line) for line in lines):
            raise ValueError(f"{name!r} listens on all addresses")
        kept.append("\n".join(lines))
    if "defaults" not in names or "frontend http_frontend" not in names:
        raise ValueError(f"found the sections {names}; expected 'defaults' and 'frontend http_frontend'")
    return "".join(kept)


def main(errors: str, host: str, haproxy: str, *words: str) -> None:
    """Become HAProxy, with the configuration that ``-f`` names made safe."""
    os.umask(0o077)
    path = Path(words[words.index("-f") + 1])
    text = closed(path.read_text(), Path(errors), host)
    temporary = path.with_suffix(".closed")
    temporary.write_text(text)
    temporary.replace(path)
    os.execv(haproxy, [haproxy, *words])


if __name__ == "__main__":
    main(*sys.argv[1:])
