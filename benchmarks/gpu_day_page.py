"""The findings of ``gpu_day.py`` as a page, Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

#: What is asked for, in patterns a second: title, how the names of its cases begin, the least.
GOALS = (
    ("training, N = 64, recommended network", "training N=64", 10_000),
    ("inference, N = 64, recommended network", "inference N=64", 20_000),
    ("refinement, N = 64", "refinement N=64 modes=1 slices=1", 100_000),
    ("refinement, N = 128", "refinement N=128 modes=1 slices=1", 25_000),
)
#: Ten slices may take so many times what one takes, by the case that ends so beside the one that ends as the other.
SLICES_GOAL, TEN_SLICES, DEFAULT, ONE_SLICE = 12, "slices=10", "default batch", "one slice, same method"


def page(found: dict[str, Any]) -> str:
    """All of it: the machine, goals, checks, speeds, kernels, what was left out."""
    lines = ["# What the device computes, and how fast", ""]
    lines += [f"- {name}: {value}" for name, value in found["machine"].items()]
    if found.get("copy_bandwidth"):
        lines.append(f"- copy within the device: {found['copy_bandwidth'] / 1e9:.0f} GB/s, read and written")
    lines.append(f"- time: {found['seconds']:.0f} s")
    lines += ["", "## Goals", "", *_table(("goal", "asked", "found", ""), _goals(found["speed"]))]
    lines += ["", "## Checks against the processor", ""]
    lines += _table(("check", "difference", "allowed", ""), map(_check, found["checks"]))
    lines += ["", "## Patterns a second", ""]
    columns = ("case", "device", "processor", "ratio", "peak memory", "kernels", "busy", "share of copy bandwidth")
    lines += _table(columns, (_speed(name, case) for name, case in found["speed"].items()))
    lines += [
        "",
        "Kernels and busy (the share of the time in which the device computes) are those of some batches of a network or of an",
        "iteration over at most 1024 patterns. Share of the copy bandwidth: as if each transform of a wave were read and",
        "written once and nothing else, over the bandwidth of a copy.",
        *_kernels(found["speed"]),
        "",
        "## Left out",
        "",
        *(f"- {line}" for line in found["left_out"] or ["nothing"]),
        "",
    ]
    return "\n".join(lines)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(columns)
    return ["| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *rows)]


def _goals(speeds: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for title, begins, least in GOALS:
        fitting = [
            (case["device"]["patterns_per_s"], name.removeprefix(begins).strip())
            for name, case in speeds.items()
            if name.startswith(begins + " ") and case.get("device")
        ]
        speed, way = max(fitting, default=(0.0, ""))
        verdict = "not measured" if not fitting else "reached" if speed >= least else "missed"
        yield title, f"{least:,} patterns/s", f"{speed:,.0f} ({way})" if fitting else "", verdict
    for name, case in speeds.items():
        one = speeds.get(name.replace(DEFAULT, ONE_SLICE), {}).get("device")
        if name.endswith(f"{TEN_SLICES} {DEFAULT}") and one and case.get("device"):
            ratio = one["patterns_per_s"] / case["device"]["patterns_per_s"]
            verdict = "reached" if ratio <= SLICES_GOAL else "missed"
            yield name.removesuffix(DEFAULT).strip(), f"at most {SLICES_GOAL} times one slice", f"{ratio:.1f}", verdict


def _check(check: dict[str, Any]) -> tuple[str, ...]:
    verdict = "passed" if check["difference"] <= check["allowed"] else "**failed**"
    note = f" ({check['note']})" if check["note"] else ""
    return check["name"], f"{check['difference']:.2g}", f"{check['allowed']:.2g}", verdict + note


def _speed(name: str, case: dict[str, Any]) -> tuple[str, ...]:
    there, here = case.get("device") or {}, case.get("processor") or {}
    fast, slow = there.get("patterns_per_s"), here.get("patterns_per_s")
    profile, share = there.get("profile") or {}, there.get("share_of_copy_bandwidth")
    return (
        name,
        f"{fast:,.0f}" if fast else "",
        f"{slow:,.0f}" if slow else "",
        f"{fast / slow:.1f}" if fast and slow else "",
        f"{there['peak_bytes'] / 2**20:.0f} MiB" if there.get("peak_bytes") else "",
        str(profile.get("kernels", "")),
        f"{profile['busy_share']:.0%}" if profile else "",
        f"{share:.0%}" if share else "",
    )


def _kernels(speeds: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Longest kernels")
    for name, case in speeds.items():
        profile = (case.get("device") or {}).get("profile")
        if profile:
            yield from ("", f"### {name}", "")
            yield from (f"- {k['s'] * 1e3:.2f} ms in {k['calls']} calls: `{k['name']}`" for k in profile["longest"])
