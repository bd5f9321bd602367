"""The program ``ptycho-ray``: finds the command, runs it, prints its result, turns errors into exit codes.

Exit codes: 0 done; 1 failed (disk full, diverged training ...); 2 wrong usage or unusable input; 130 interrupted.
Only the command that is asked for is imported, so ``ptycho-ray --help`` loads no numerical library.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import importlib
import io
import json
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ptycho_ray import __version__
from ptycho_ray.errors import BAD_INPUT, FAILED, INTERRUPTED, NOT_TRUSTED, OK, InputError, TrainingInterrupted
from ptycho_ray.files import jsonable, short_text

#: Width to which sentences are wrapped, and of the longest text that stands in a list with commas.
LINE, A_WORD = 118, 40
#: Objects made between two searches for garbage. Loading the libraries makes a million and no garbage; by Python's own 700, an
#: eighth of a short command was spent on looking.
COLLECT_AFTER = 50_000
COMMANDS = {
    "demo": "reconstruct the two scans that come with the package: a first look",
    "doctor": "check the installation: versions, device, memory, disk, ports, and a small reconstruction",
    "simulate": "simulate a scan of a known object",
    "train": "train a network on a scan; no images of the sample are needed",
    "pretrain": "train a general network on simulated scans",
    "tune": "search for settings of the experiment, the physics or the network; no ground truth is needed",
    "reconstruct": "reconstruct a scan: automatically, or with a trained network",
    "refine": "refine an image with an iterative solver, or solve from scratch",
    "reconstruct-scans": "reconstruct many scans, or a very large one, on a Ray cluster",
    "evaluate-scans": "reconstruct and evaluate many scans in parallel on a Ray cluster",
    "evaluate": "measure image quality against the ground truth or the data",
    "compare": "compare several images: figures of merit and plots",
    "study": "measure quality on an unseen scan against the number of training patterns",
    "info": "show the contents of a file and any suspected problems",
    "convert": "write a scan in another format",
    "prepare": "turn raw detector frames into a scan: crop, bin, mask, centre, orient",
    "orient": "determine the order and signs of the scan axes",
    "calibrate": "determine rotation, defocus and astigmatism of a scan of electrons",
    "mlflow-sync": "send the records of a run to MLflow that have not been sent yet",
    "serve": "run the reconstruction service",
    "submit": "send a scan to a service for reconstruction",
    "watch": "send a scan to a service while it is being measured",
    "replay": "send a scan as its detector would during the measurement",
    "token": "manage access to a service",
    "operate": "drain a service, back up its jobs, settle quotas, write alerts",
    "completion": "print what makes a shell complete commands and options",
}

#: Former names of commands, which still work.
ALIASES = {"deliver": "mlflow-sync"}

_EPILOG = """commands:
{commands}

'ptycho-ray COMMAND --help' explains a command. A first look: ptycho-ray demo. With a scan of your own: ptycho-ray info
scan.h5, then ptycho-ray reconstruct scan.h5 --output-dir image.
Each command takes --json for one machine-readable object on standard output. Exit codes: 0 done, 1 failed,
2 wrong usage or unusable input, 3 an image that is not to be trusted, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with ``argv`` (that of the process by default) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a letter shows a question mark
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(
        prog="ptycho-ray",
        usage="ptycho-ray COMMAND ...",
        description="Reconstructs ptychographic scans, by an iterative solver and by physics-informed networks.",
        epilog=_EPILOG.format(commands="\n".join(f"  {name:17}  {text}" for name, text in COMMANDS.items())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ptycho-ray {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    command = parser.parse_args(words[:1]).command
    if command is None:
        parser.print_help(sys.stderr)
        return BAD_INPUT
    command = ALIASES.get(command, command)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
        return _fail(f"there is no command {command!r}; {hint}", BAD_INPUT, as_json="--json" in words)
    return _run(command, words[1:])


def _run(command: str, words: list[str]) -> int:
    as_json = "--json" in words
    # Those of other programs in this environment take long to load, and this one has none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    try:
        with (
            _plain_warnings(),
            _few_collections(),
            contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(),
        ):
            module = importlib.import_module(f"ptycho_ray.commands.{command.replace('-', '_')}")
            result = module.run(words)
        if result or as_json:
            lines = getattr(module, "as_text", as_text)  # a command may have a form of its own for people
            print(_as_json(result) if as_json else "\n".join(lines(result)), flush=True)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt as interruption:
        saved = isinstance(interruption, TrainingInterrupted) and interruption.checkpoint
        again = "; add --resume to continue from there" if saved else ""
        return _fail(f"{str(interruption) or 'interrupted'}{again}", INTERRUPTED, as_json)
    except InputError as error:
        return _fail(error, BAD_INPUT, as_json, debug="--debug" in words)
    except ModuleNotFoundError as error:
        hint = "type the command, or 'ray start', in the environment in which ptycho-ray is installed"
        return _fail(f"{error}: {sys.executable} lacks this package; {hint}", FAILED, as_json)
    except (OSError, RuntimeError, ValueError, ArithmeticError, MemoryError, ImportError) as error:
        return _fail(error, FAILED, as_json, debug="--debug" in words)
    if result and "exit_code" in result:
        return int(result["exit_code"])
    return NOT_TRUSTED if result and result.get("trusted") is False else OK


def _fail(error: BaseException | str, code: int, as_json: bool, debug: bool = False) -> int:
    if debug and isinstance(error, BaseException):
        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    print(f"ptycho-ray: {text}", file=sys.stderr)
    if as_json:
        print(_as_json({"error": text, "exit_code": code}), flush=True)
    return code


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each on standard error, without their place in the source code."""

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        yield


def as_text(result: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines for a person: one for each entry, a nested mapping indented, a list of mappings as a table, sentences wrapped."""
    lines = []
    values = jsonable(result)
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *as_text(value, indent + "  ")]
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            lines += [f"{indent}{name}", *_table(value, indent + "  ")]
        elif isinstance(value, str) and "; " in value:
            first = f"{indent}{name:{width}}  "
            lines += textwrap.wrap(value, LINE, initial_indent=first, subsequent_indent=" " * len(first))
        elif isinstance(value, list) and any(isinstance(text, str) and len(text) > A_WORD for text in value):
            lines.append(f"{indent}{name}")
            for text in map(str, value):
                lines += textwrap.wrap(text, LINE, initial_indent=f"{indent}  - ", subsequent_indent=f"{indent}    ")
        else:
            lines.append(f"{indent}{name:{width}}  {short_text(value)}".rstrip())
    return lines


def _table(rows: list[dict[str, Any]], indent: str) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        [name.replace("_", " ") for name in columns],
        *([short_text(row.get(name)) for name in columns] for row in rows),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _as_json(result: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(result), allow_nan=False)
