"""``ptycho-ray demo``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ptycho_ray.commands.common import FOLDER, Common, DeviceOptions, Result, tell
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.examples.shipped import SCANS, configurations, example


@dataclass(kw_only=True)
class Options(Common, WritingOptions, DeviceOptions):
    """Reconstruct the two scans that come with the package, without a setting, and say how good the images are: one of a known
    object, which is compared with it, and one that was measured. A minute on two cores; nothing is fetched.

    Example: ptycho-ray demo --output-dir demo
    """

    output_dir: Annotated[Path, FOLDER] = Path("ptycho_ray_demo")
    """Folder for the scans, the images and the example configurations."""
    only_files: bool = False
    """Only write the scans and the example configurations."""
    only: Annotated[str | None, tyro.conf.arg(metavar="{simulated,measured}")] = None
    """Only this scan."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray demo").options
    chosen = [example(options.only).stem] if options.only else ["simulated", "measured"]
    folder = folder_to_write(
        options.output_dir,
        given=options.output_dir != Options.output_dir,
        overwrite=options.overwrite,
        results=[f"{name}.npz" for name in SCANS],
    )
    for name, path in configurations().items():
        (folder / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "configs" / name)
    for name in chosen:
        for file in (example(name), example(name).with_suffix(".LICENSE")):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    result: Result = {"folder": folder, "images": []}
    if not options.only_files:
        tell("loading the program")
        result["images"] = [_image_of(name, folder, options) for name in chosen]
        result["trusted"] = all(row["trusted"] for row in result["images"])
    return result


def _image_of(name: str, folder: Path, options: Options) -> Result:
    """Reconstruct one scan and, where its object is known, compare the image with it."""
    from ptycho_ray.commands import evaluate
    from ptycho_ray.commands.automatic import AutomaticOptions, reconstruct_automatically
    from ptycho_ray.commands.common import ProductOptions, WorkerOptions
    from ptycho_ray.display.figures import plot_object, save_figure
    from ptycho_ray.reconstruction.images import read_image

    tell(f"{name}: {SCANS[name]}")
    scan, place, began = folder / f"{name}.npz", folder / name, time.monotonic()
    made = reconstruct_automatically(
        scan,
        place,
        AutomaticOptions().wishes({}),
        only_plan=False,
        explain=False,
        product=ProductOptions(),
        workers=WorkerOptions(),
        accelerator=options.device or "auto",
    )
    row: Result = {"scan": name, "what": SCANS[name], "seconds": round(time.monotonic() - began, 1)}
    row |= {key: made[key] for key in ("verdict", "trusted", "report")}
    image = read_image(place)
    drawn = plot_object(image.pixels, region=image.region, pixel_size_m=made["pixel_size_m"])
    row["picture"] = save_figure(drawn, place / "image.png", dpi=110)
    if name == "simulated":
        truth = evaluate.run([str(place), str(scan)])["truth"]
        row |= {"amplitude_error": truth["amplitude"]["mae"], "phase_error_rad": truth["phase"]["mae"]}
    return row


def as_text(result: Mapping[str, Any]) -> Iterator[str]:
    """For people: a few lines for each image, and what to type next."""
    from ptycho_ray.commands.info import wrapped

    folder = result["folder"]
    for row in result["images"]:
        yield f"{row['scan']}: {row['what']}, {row['seconds']:.0f} s"
        yield from wrapped(row["verdict"], "  ")
        if "phase_error_rad" in row:
            yield (
                f"  mean error against the known object: amplitude {row['amplitude_error']:.3f} (of 1), "
                f"phase {row['phase_error_rad']:.3f} rad"
            )
        yield f"  picture {row['picture']}"
        yield f"  report  {row['report']}"
    yield f"scans and configurations: {folder}"
    yield "next:  ptycho-ray info FILE, then ptycho-ray reconstruct FILE --output-dir image, with a scan of your own"
