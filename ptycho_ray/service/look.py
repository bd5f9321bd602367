"""A look at a scan before anything runs: what ``ptycho-ray info`` says of its file, and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData
from ptycho_ray.data.account import account_of_file
from ptycho_ray.data.first_look import first_look
from ptycho_ray.data.scan_words import problem_lines, scan_lines
from ptycho_ray.reconstruction.weak_phase import image_of_thin_sample
from ptycho_ray.service.engine import Options, check_limits
from ptycho_ray.service.layers import LOOK_FILE, Layer, write_layers
from ptycho_ray.service.settings import ServiceSettings


def look_at(
    path: Path, options: Options, settings: ServiceSettings, folder: Path, name: str, go_on: Callable[[], None]
) -> dict[str, Any]:
    """The facts about a file, which are about ``name`` for the caller; pictures of a whole scan go into ``folder``.
    ``go_on`` is called before each piece of it that is read, and raises if nobody looks any more.

    A file that cannot be read as it is has that as its verdict; Problem for one that is larger than the service allows.
    """
    reading = Reading(keys_only=True).with_changes(options.reading)
    facts, scan = account_of_file(path, reading, max_bytes=settings.max_inflated_bytes, on_read=go_on)
    facts["readable"] = scan is not None
    if scan is not None:
        check_limits(scan, settings)
        problems = problem_lines(facts)
        facts["lines"] = scan_lines(facts)
        facts["problems"] = [] if problems == "none" else problems
        facts["notes"] = [] if facts["notes"] == "none" else facts["notes"]
        facts["first_look"] = _pictures(scan, folder)
    renamed: dict[str, Any] = _renamed(facts, {str(path): name, f"{folder}/": ""})
    return renamed


def _pictures(scan: RawData, folder: Path) -> dict[str, Any]:
    """Write what a first look shows; its figures."""
    look, pixel = first_look(scan), scan.pixel_size_m
    step_px = look.grid.upright_step_px
    layers = [
        Layer("mean pattern", look.virtual.mean, "scan", logarithmic=True),
        *_modes(scan.probe, pixel),
        Layer("positions", scan.positions_px, "scan", pixel_size_m=pixel),
    ]
    for name, image in look.images.items():
        layers.append(Layer(name, look.grid.upright(image), "first look", pixel_size_m=pixel, step_px=step_px))
    moved = [look.grid.upright(look.centre_px[..., axis]) for axis in range(2)]
    # Red points to the right, and hues go counter-clockwise as seen: rows grow downward.
    centre = moved[1] - 1j * moved[0]
    layers.append(Layer("centre of mass", centre, "first look", pixel_size_m=pixel, step_px=step_px, unit="px"))
    phase = look.grid.upright(look.phase)
    layers.append(Layer("integrated phase", phase, "first look", pixel_size_m=pixel, step_px=step_px, unit="rad"))
    if (direct := image_of_thin_sample(scan, look)) is not None:
        image = np.where(direct.covered(), direct.image, 0)
        layers.append(Layer("direct phase (weak object)", image, "first look", pixel_size_m=pixel))
    write_layers(folder / LOOK_FILE, layers)
    return look.figures()


def _modes(probe: NDArray[np.complex64], pixel_size_m: float | None) -> list[Layer]:
    return [Layer(f"probe mode {k + 1}", mode, "probe", pixel_size_m=pixel_size_m) for k, mode in enumerate(probe)]


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Paths of the server replaced by what the caller calls them."""
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    if isinstance(value, str | Path):
        text = str(value)
        for path, name in names.items():
            text = text.replace(path, name)
        return text
    return value
