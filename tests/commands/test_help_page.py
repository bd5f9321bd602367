"""``--help`` is one screen, ``--help-all`` has everything, and the shell completes what they show."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings

import pytest
import tyro

from ptycho_ray.commands.cli import COMMANDS, main

FORMS = [*([command] for command in COMMANDS), ["simulate", "--electrons"]]


def page(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("form", [[], *FORMS], ids=" ".join)
def test_help_is_one_screen(form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = page([*form, "--help"], capsys)
    assert len(text.splitlines()) <= 40
    options = [line for line in text.splitlines() if line.startswith("  --")]
    assert all(len(line) <= 80 for line in options)
    assert "None" not in text


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_help_all_says_more(form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    short, full = page([*form, "--help"], capsys), page([*form, "--help-all"], capsys)
    names = re.findall(r"^  (--[\w.-]+)", full, flags=re.MULTILINE)
    assert {*re.findall(r"^  (--[\w.-]+)", short, flags=re.MULTILINE)} <= {*names}
    assert len(names) == len({*names})
    assert "(default: None)" not in full
    hidden = re.search(r"^(\d+) more options", short, flags=re.MULTILINE)
    assert hidden is not None
    assert int(hidden[1]) == len(names) - len(re.findall(r"^  --", short, flags=re.MULTILINE))


@pytest.mark.parametrize("command", ["train", "reconstruct", "refine", "simulate", "serve"])
def test_the_parser_knows_the_options_of_the_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is written apart from the parser."""
    shown = {*re.findall(r"^  (--[\w.-]+)", page([command, "--help-all"], capsys), flags=re.MULTILINE)}
    parsed: list[type] = []

    def instead(cls: type, **_: object) -> None:
        parsed.append(cls)
        raise SystemExit(0)

    monkeypatch.setattr(tyro, "cli", instead)
    with pytest.raises(SystemExit):
        main([command, "x.npz"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(parsed[0])
    typed = {name for action in parser._actions for name in action.option_strings} - {"-h", "--help"}
    assert shown <= typed
    assert {name for name in typed if not re.search(r"(^--|\.)no-", name)} <= shown | {
        name.replace("no-", "", 1) for name in shown
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_has_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", script)
    assert "position-start" in script
    if shell == "bash" and (bash := shutil.which("bash")):
        ask = "COMP_WORDS=(ptycho-ray refine --position-st); COMP_CWORD=2; _ptycho_ray; echo ${COMPREPLY[@]}"
        told = subprocess.run([bash, "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        assert told.stdout.split() == ["--position-step-px", "--position-start"]
