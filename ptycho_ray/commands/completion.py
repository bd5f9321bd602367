"""``ptycho-ray completion``."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ptycho_ray.commands.common import Common, Result
from ptycho_ray.config.command_line import parse

_BASH = """_ptycho_ray() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" options=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    if [[ "$word" == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$word")); else COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _ptycho_ray ptycho-ray"""


@dataclass(kw_only=True)
class Options(Common):
    """Print what makes a shell complete commands, options and files after the tab key. For bash and zsh: add the line
    eval "$(ptycho-ray completion bash)" (or zsh) to ~/.bashrc (or ~/.zshrc), or write the output to a file that is read there.

    Example: ptycho-ray completion fish > ~/.config/fish/completions/ptycho-ray.fish
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional, tyro.conf.arg(metavar="bash|zsh|fish")]
    """The shell."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray completion").options
    return {"shell": options.shell, "options": dict(_options())}


def as_text(result: Mapping[str, Any]) -> Iterator[str]:
    """The lines that the shell reads."""
    known, shell = result["options"], result["shell"]
    if shell == "fish":
        yield f"complete -c ptycho-ray -n __fish_use_subcommand -f -a '{' '.join(known)}'"
        for command, names in known.items():
            for name in names:
                yield f"complete -c ptycho-ray -n '__fish_seen_subcommand_from {command}' -l '{name[2:]}'"
        return
    if shell == "zsh":
        yield "autoload -U +X bashcompinit && bashcompinit"
    cases = "\n".join(f'        {command}) options="{" ".join(names)}" ;;' for command, names in known.items())
    yield _BASH.format(commands=" ".join(known), cases=cases)


def _options() -> Iterator[tuple[str, list[str]]]:
    """The options of every command, as its help has them; none of one whose packages are not installed."""
    from ptycho_ray.commands.cli import COMMANDS

    for command in COMMANDS:
        text = io.StringIO()
        with contextlib.suppress(SystemExit, ImportError), contextlib.redirect_stdout(text):
            importlib.import_module(f"ptycho_ray.commands.{command.replace('-', '_')}").run(["--help-all"])
        yield command, re.findall(r"^  (--[\w.-]+)", text.getvalue(), flags=re.MULTILINE)
