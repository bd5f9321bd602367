"""Where the example scans and configurations of the package are."""

from __future__ import annotations

from pathlib import Path

from ptycho_ray.errors import InputError

HERE = Path(__file__).parent
#: What ``example`` knows by name.
SCANS = {"measured": "a Siemens star, measured with X-rays", "simulated": "a Siemens star with a known object"}


def example(name: str = "measured") -> Path:
    """The file of a scan that comes with the package, 'measured' or 'simulated'; InputError for another name."""
    if name not in SCANS:
        raise InputError(field="name", found=repr(name), expected=f"one of {', '.join(map(repr, SCANS))}")
    return HERE / f"{name}.npz"


def configurations() -> dict[str, Path]:
    """The example configurations by name (``train/minimal.yaml``); in a checkout those of its ``configs`` folder."""
    folder = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parents[1] / "configs"
    found = (path for kind in ("train", "tune", "refine") for path in sorted((folder / kind).glob("*.yaml")))
    return {path.relative_to(folder).as_posix(): path for path in found}
