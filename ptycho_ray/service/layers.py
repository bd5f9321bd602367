"""What the page can show of a job, layer by layer: pictures of a scan, the image, its probe, slices, error bars.

A layer is complex [rows, columns], real [rows, columns] with NaN where nothing is known, or positions [n, 2].
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import unwrap_phase

from ptycho_ray.evaluation.registration import fit_ambiguities
from ptycho_ray.files import atomic_path
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.service.job_results import RESULT, covered_window, pack_image

LOOK_FILE, PREVIEW = "look.npz", "preview.raw"
#: Pixels along the longer side that are sent at most; of a larger picture every second, third, ... pixel.
MOST_SENT, MOST_OF_PREVIEW = 4096, 512


@dataclass(frozen=True)
class Layer:
    """One picture with what is needed to draw it.

    Attributes:
        name, group: what it is called, and beside which others it stands.
        step_px: between neighbouring values, (rows, columns) in object pixels.
        pixel_size_m: of an object pixel; None if not known, or if these are not pixels of the object.
        origin_px: place of the first value in the coordinates of the scan.
        unit: of the values.
        logarithmic: spans so many orders of magnitude that its logarithm is shown.
    """

    name: str
    values: NDArray[Any]
    group: str
    pixel_size_m: float | None = None
    step_px: Any = (1.0, 1.0)
    origin_px: Any = (0.0, 0.0)
    unit: str = ""
    logarithmic: bool = False

    def facts(self) -> dict[str, Any]:
        """All but the values."""
        return {
            "name": self.name,
            "group": self.group,
            "complex": bool(np.iscomplexobj(self.values)),
            "pixel_size_m": self.pixel_size_m,
            "step_px": [float(step) for step in self.step_px],
            "origin_px": [float(place) for place in self.origin_px],
            "unit": self.unit,
            "logarithmic": self.logarithmic,
        }

    def packed(self, most: int = MOST_SENT) -> bytes:
        """As it is sent (:func:`ptycho_ray.service.job_results.pack_image`), thinned to ``most`` values a side."""
        if self.name == "positions":
            return pack_image(self.facts(), self.values)
        every = max(1, math.ceil(max(self.values.shape) / most))
        facts = self.facts() | {"step_px": [every * float(step) for step in self.step_px]}
        return pack_image(facts, self.values[::every, ::every])

    def without_ramp(self) -> Layer:
        """A complex layer times the phase ramp that makes it as flat as it can be."""
        seen = self.values != 0
        found = fit_ambiguities(self.values, np.abs(self.values), mask=seen, register=False)
        return replace(self, values=(found.apply(self.values) / abs(found.scale)).astype(np.complex64))

    def unwrapped(self) -> Layer:
        """The phase of a complex layer without its jumps, real, in radian."""
        seen = self.values != 0
        phase = unwrap_phase(np.ma.masked_array(np.angle(self.values), ~seen), rng=0)
        return replace(self, values=np.where(seen, np.ma.getdata(phase), np.nan).astype(np.float32), unit="rad")


def write_layers(path: Path, layers: list[Layer], more: dict[str, Any] | None = None) -> None:
    """Write layers, and facts that belong to all of them, into one file."""
    facts = json.dumps({"layers": [layer.facts() for layer in layers], **(more or {})})
    arrays: dict[str, Any] = {layer.name: layer.values for layer in layers} | {"facts": np.array(facts)}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_facts(path: Path) -> dict[str, Any]:
    """What :func:`write_layers` wrote beside the values."""
    with np.load(path, allow_pickle=False) as file:
        facts: dict[str, Any] = json.loads(str(file["facts"]))
        return facts


def read_layer(path: Path, name: str) -> Layer:
    """One layer of such a file; KeyError if it has none of this name."""
    facts = next((facts for facts in read_facts(path)["layers"] if facts["name"] == name), None)
    if facts is None:
        raise KeyError(name)
    with np.load(path, allow_pickle=False) as file:
        return Layer(values=file[name], **{key: value for key, value in facts.items() if key != "complex"})


def layer_names(folder: Path) -> list[dict[str, str]]:
    """Name and group of all layers of a finished job; FileNotFoundError if its files are no longer kept."""
    if (folder / LOOK_FILE).exists():
        return [{"name": facts["name"], "group": facts["group"]} for facts in read_facts(folder / LOOK_FILE)["layers"]]
    with np.load(folder / RESULT, allow_pickle=False) as result:
        found = [("object", "image")]
        found += [(f"probe mode {k + 1}", "probe") for k in range(len(result["probe"]))]
        found += [(f"slice {k + 1}", "slices") for k in range(len(result["slices"]))] if "slices" in result else []
        found += [(name, "error bars") for name in _DEVIATIONS if _DEVIATIONS[name][0] in result]
        found += [("illumination", "scan"), ("positions", "scan")]
    return [{"name": name, "group": group} for name, group in found]


def layer_of(folder: Path, name: str) -> Layer:
    """One layer of a finished job; KeyError if it has none of this name, FileNotFoundError if its files are gone."""
    if (folder / LOOK_FILE).exists():
        return read_layer(folder / LOOK_FILE, name)
    with np.load(folder / RESULT, allow_pickle=False) as result:
        return _layer_of_result(result, name)


_DEVIATIONS = {"amplitude deviation": ("amplitude_std", ""), "phase deviation": ("phase_std", "rad")}


def _layer_of_result(result: Any, name: str) -> Layer:
    pixel = float(result["pixel_size_m"]) if "pixel_size_m" in result else None
    kind, _, number = name.rpartition(" ")
    index = int(number) - 1 if number.isdecimal() else -1
    if kind == "probe mode" and 0 <= index < len(result["probe"]):
        return Layer(name, result["probe"][index], "probe", pixel)
    if name == "positions":
        return Layer(name, result["positions_px"], "scan", pixel)
    covered, window = covered_window(result)
    origin = result["origin_px"] + [side.start for side in window]

    def cropped(values: NDArray[Any], outside: float) -> NDArray[Any]:
        return np.where(covered, values, outside)[window]

    if name == "object":
        return Layer(name, cropped(result["object"], 0), "image", pixel, origin_px=origin)
    if kind == "slice" and "slices" in result and 0 <= index < len(result["slices"]):
        return Layer(name, cropped(result["slices"][index], 0), "slices", pixel, origin_px=origin)
    if name in _DEVIATIONS and _DEVIATIONS[name][0] in result:
        key, unit = _DEVIATIONS[name]
        return Layer(name, cropped(result[key], np.nan), "error bars", pixel, origin_px=origin, unit=unit)
    if name == "illumination":
        return Layer(name, result["weight"][window], "scan", pixel, origin_px=origin)
    raise KeyError(name)


def write_preview(folder: Path, image: StitchedObject, pixel_size_m: float | None, iteration: int) -> None:
    """The image of a job as it is now, small, for who watches."""
    covered, window = covered_window({"object": image.image, "weight": image.weight})
    shown = Layer(f"after iteration {iteration}", np.where(covered, image.image, 0)[window], "image", pixel_size_m)
    with atomic_path(folder / PREVIEW) as temporary:
        temporary.write_bytes(shown.packed(MOST_OF_PREVIEW))
