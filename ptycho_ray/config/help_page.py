"""What ``--help`` and ``--help-all`` print: one screen of what is often typed, or every option with all that is said of it.

Both are made from the classes that the command line is parsed with; tyro, which parses it, would print boxes several screens
long, with a default for each option, None included.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from ptycho_ray.config.schema import docstrings_of_fields

#: Columns at least and at most, whatever the terminal has, and where the text of an option begins.
NARROW, WIDE, INDENT = 80, 118, 30


@dataclass(frozen=True)
class Entry:
    """One option: its name with dashes (none for a positional one), what stands behind it, and what is said of it."""

    name: str
    value: str
    text: str
    positional: bool
    flag: bool

    @property
    def typed(self) -> str:
        return self.value if self.positional else f"{self.name} {self.value}".rstrip()


@dataclass(frozen=True)
class Group:
    """Options that belong together; the one screen has only those that are typed ``often``."""

    title: str
    entries: Sequence[Entry]
    often: Sequence[Entry]


def entries_of(cls: type[Any], *, without: Collection[str] = (), prefix: str = "") -> list[Entry]:
    """The options that the fields of ``cls`` become, without fields that are groups of their own."""
    hints = typing.get_type_hints(cls, include_extras=True)
    helps: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        helps |= docstrings_of_fields(each) if dataclasses.is_dataclass(each) else {}
    entries = []
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        notes = typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ()
        bare = typing.get_args(kind)[0] if notes else kind
        if field.name in without or dataclasses.is_dataclass(bare) or tyro.conf.Suppress in notes:
            continue
        said = {
            name: getattr(note, name, None) for note in notes for name in ("metavar", "name") if hasattr(note, name)
        }
        flag = bare is bool
        name = f"--{prefix}{(said.get('name') or field.name).replace('_', '-')}"
        if flag and field.default is True:
            name = f"--{prefix}no-{field.name.replace('_', '-')}"
        text = helps[field.name]
        if shown := _default(field):
            text = f"{text.rstrip('.')} [{shown}]"
        positional = tyro.conf.Positional in notes
        value = "" if flag else str(said.get("metavar") or metavar(bare))
        entries.append(Entry(name, value, text, positional, flag))
    return sorted(entries, key=lambda entry: not entry.positional)


def metavar(kind: Any) -> str:
    """INT for ``int | None``: that None can be typed too need not stand in every line of the help; the words of a choice."""
    for member in (kind, *typing.get_args(kind)):
        if typing.get_origin(member) is typing.Literal:
            return "{" + ",".join(map(str, typing.get_args(member))) + "}"
    text = str(kind).lower()
    return next((name.upper() for name in ("path", "int", "float", "str", "bool") if name in text), "VALUE")


def _default(field: dataclasses.Field[Any]) -> str:
    """A default that tells something: not None, no flag, nothing empty."""
    value = field.default
    if value is dataclasses.MISSING or value is None or isinstance(value, bool) or value in ((), "", "auto"):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_help(cls: type[Any], groups: Sequence[Group], *, prog: str, fully: bool) -> str:
    """The text of ``--help``, or ``--help-all`` if ``fully``; ``cls`` has the description and the example."""
    width = min(max(shutil.get_terminal_size((NARROW, 24)).columns, NARROW), WIDE)
    about, example = described(cls)
    first = groups[0].entries
    usage = " ".join([f"usage: {prog}", *(entry.value for entry in first if entry.positional), "[options]"])
    if fully:
        paragraphs = [textwrap.fill(part, width) for part in about]
        lines = [usage, *_between(paragraphs), "", example]
        for group in groups:
            lines += ["", f"{group.title}:", *(line for entry in group.entries for line in _in_full(entry, width))]
        return "\n".join(lines)
    lines = [usage, *_first_sentences(about[0], width), "", example]
    for group in groups:
        if group.often:
            lines += [f"{group.title}:", *(_in_a_line(entry, width) for entry in group.often)]
    hidden = sum(len(group.entries) - len(group.often) for group in groups)
    more = f"{hidden} more options, and all" if hidden else "All"
    return "\n".join([*lines, f"{more} that is said of each: {prog} --help-all"])


def _first_sentences(text: str, width: int) -> list[str]:
    """As many whole sentences as three lines hold, one at least."""
    sentences = text.split(". ")
    for count in range(len(sentences), 0, -1):
        lines = textwrap.wrap(". ".join(sentences[:count]).rstrip(".") + ".", width)
        if len(lines) <= 3 or count == 1:
            return lines
    return []


def described(cls: type[Any]) -> tuple[list[str], str]:
    """The paragraphs of a command's description, and the line with its example."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    example = next((line for line in lines if line.startswith("Example:")), "")
    parts = "\n".join(line for line in lines if line != example).split("\n\n")
    return [" ".join(part.split()) for part in parts if part.strip()], example


def _between(paragraphs: Sequence[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from ("", paragraph)


def _in_a_line(entry: Entry, width: int) -> str:
    """The option and the beginning of its text, cut between two words."""
    head = f"  {entry.typed}"
    if len(head) > INDENT - 2 and entry.value:
        short = "{...}" if entry.value[0] == "{" else "..."
        head = f"  {short}" if entry.positional else f"  {entry.name} {short}"
    head = f"{head:{INDENT - 1}} "
    text, _, more = entry.text.partition(". ")
    text = text.split("; ")[0]
    shown = entry.text.rpartition(" [")[2] if entry.text.endswith("]") and (more or "[" not in text) else ""
    text = f"{text.rstrip('.')} [{shown}" if shown else text.rstrip(".")
    room = width - len(head)
    return head + (text if len(text) <= room else textwrap.shorten(text, room, placeholder=" ..."))


def _in_full(entry: Entry, width: int) -> list[str]:
    head = f"  {entry.typed}"
    text = textwrap.wrap(entry.text, width - INDENT)
    if len(head) >= INDENT - 1:
        return [head, *(" " * INDENT + line for line in text)]
    return [f"{head:{INDENT}}{text[0]}", *(" " * INDENT + line for line in text[1:])]


def groups_of(
    options_class: type[Any],
    settings: Mapping[str, type[Any]],
    prefixes: Mapping[str, str],
    without: Callable[[str], Collection[str]],
    most_used: Mapping[str, Collection[str]],
) -> list[Group]:
    """The groups of a command's options: its own, how a file is read, and each class of settings. ``without`` names
    the settings of a class that are no options, ``most_used`` those that are shown first, by the name of their class."""
    hints = typing.get_type_hints(options_class)
    mine = entries_of(options_class)
    groups = [Group("options", mine, [entry for entry in mine if entry.positional or entry.name not in RARELY])]
    for field in dataclasses.fields(options_class):
        if dataclasses.is_dataclass(hints[field.name]):
            entries = entries_of(hints[field.name])
            groups.append(Group("how the file is read", entries, [e for e in entries if e.name in READING]))
    for name, cls in settings.items():
        prefix = prefixes.get(name, "")
        entries = entries_of(cls, without=("model", *without(name)), prefix=prefix)
        often = {f"--{prefix}{each.replace('_', '-')}" for each in most_used.get(cls.__name__, ())}
        groups.append(Group(TITLES.get(name, name), entries, [entry for entry in entries if entry.name in often]))
    return groups


#: Of a command's own options those that are not on the one screen, and of the options of reading those that are: info says
#: which of the others a file needs.
RARELY = ("--debug", "--event-file", "--input", "--ray", "--start-anew", "--subsample-seed")
READING = ("--companion", "--units", "--pixel-size-m")
TITLES = {
    "model": "the network",
    "settings": "settings",
    "execution": "how it is computed",
    "refinement": "the solver",
}
