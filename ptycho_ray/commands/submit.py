"""``ptycho-ray submit``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ptycho_ray.commands.automatic import SECTION, AutomaticOptions, section_of
from ptycho_ray.commands.common import SCAN, ProductOptions, Result
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.training import OF_AN_IMAGE, InferenceConfig
from ptycho_ray.refinement.config import RefinementConfig


@dataclass(kw_only=True)
class Options(ProductOptions, WritingOptions, AutomaticOptions):
    """Send a scan to a reconstruction service and save the image; without --model as ptycho-ray reconstruct makes it.
    PTYCHO_RAY_TOKEN is the token.

    Example: ptycho-ray submit scan.h5 --url http://127.0.0.1:8000 --output image.npz
    Once more with changes: ptycho-ray submit --like JOB --refinement.probe-modes 3
    """

    scan: Annotated[Path | None, tyro.conf.Positional, SCAN] = None
    """The scan: NPZ, HDF5 or CXI; none with --like."""
    like: Annotated[str | None, tyro.conf.arg(metavar="JOB")] = None
    """Instead of a scan: that of an earlier job of yours, with its settings but for those that are given here."""
    refined: bool = False
    """With --like: begin with the probe and the positions that this job found."""
    url: str = "http://127.0.0.1:8000"
    """Address of the service."""
    model: str | None = None
    """NAME or NAME@VERSION of a trained model of the service."""
    output: Path = Path("reconstruction.npz")
    """File to write; .npz, .h5 (Ptychodus) or .png."""
    stitch: Literal["probe", "crop"] | None = None
    """With a model: how patches are combined into one image; probe if not given."""
    crop: int | None = None
    """With --stitch crop: side of the central pieces that are used; 20 if not given."""
    refine: int | None = None
    """Short for --refinement-iterations."""
    workers: int = 1
    """Without a model: share the solution among so many workers of the service, if it allows that."""
    evaluate: bool = False
    """Compare with the true object, if the scan holds one."""
    deadline_s: float | None = None
    """Give up after this time."""
    estimate: bool = False
    """Send nothing; tell what the scan is likely to cost, by reconstructions before it."""
    no_wait: bool = False
    """Submit the scan and return at once with the id of the job."""


FORMATS = {".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".png": "png"}


def run(words: Sequence[str]) -> Result:
    typed = parse(
        Options,
        words,
        prog="ptycho-ray submit",
        config_class=InferenceConfig,
        with_model=False,
        with_execution=False,
        only=OF_AN_IMAGE,
        sections={SECTION: RefinementConfig},
    )
    options, (solver, network) = typed.options, section_of(typed)
    from ptycho_ray.client import Client
    from ptycho_ray.display.progress import BatchProgress
    from ptycho_ray.errors import InputError

    form = FORMATS.get(options.output.suffix.lower())
    if form is None:
        raise InputError(
            field="output", found=options.output.name, expected=f"a name that ends in {', '.join(FORMATS)}"
        )
    _check_scan(options)
    for field, file in options.reading.files().items():
        how = " ".join(options.reading.words())
        raise InputError(
            file=file,
            field=field,
            found="a file beside the scan",
            expected="all in the one file that is sent",
            hint=f"ptycho-ray convert {options.scan} whole.h5 {how} && ptycho-ray submit whole.h5",
        )
    if not (options.no_wait or options.estimate):
        inputs = options.inputs(options.scan)
        file_to_write(options.output, overwrite=options.overwrite, inputs=inputs)
        if options.product is not None:
            file_to_write(options.product, overwrite=options.overwrite, inputs=inputs, field="product")
    choices: dict[str, Any] = {"model": options.model, "stitch": options.stitch, "crop": options.crop}
    choices |= {"evaluate": options.evaluate or None, "deadline_s": options.deadline_s}
    choices |= {"refinement_iterations": options.refine, "seed": options.seed, "budget_s": options.budget}
    choices |= network | options.reading.chosen()
    workers = options.workers if options.workers != 1 else None
    choices |= {"uncertainty": options.uncertainty or None, "workers": workers, SECTION: solver}
    with Client(options.url, os.environ.get("PTYCHO_RAY_TOKEN")) as client:
        if options.estimate and options.scan is not None:
            from ptycho_ray.data import load_data

            scan = load_data(options.scan, reading=options.reading, n_subsample=network.get("n_subsample"))
            return client.estimate(patterns=len(scan), side=scan.N, model=options.model)
        if options.like is not None:
            changes = {name: value for name, value in choices.items() if value is not None}
            job = client.again(options.like, refined=options.refined, **changes)
        else:
            job = client.submit(options.scan, **choices)
        if options.no_wait:
            return {"job": job["id"], "state": job["state"], "url": f"{options.url.rstrip('/')}{job['links']['self']}"}
        bar, told, waited = BatchProgress("reconstructing", "%"), list[str](), list[str]()

        def show(state: dict[str, Any]) -> None:
            facts = state.get("facts") or {}
            for line in facts.get("plan", [])[len(told) :]:
                told.append(line)
                print(line, file=sys.stderr, flush=True)
            if facts.get("waiting", "") not in ("", *waited):
                waited.append(facts["waiting"])
                print(waited[-1], file=sys.stderr, flush=True)
            bar(int(100 * state["progress"]), 100)

        try:
            done = client.wait(job["id"], show)
        except KeyboardInterrupt:
            client.cancel(job["id"])
            raise
        image = client.result(job["id"], form).save(options.output)
        if options.product is not None and options.scan is not None:
            from ptycho_ray.data import load_data

            arrays, remark = client.result(job["id"]).arrays(), f"Reconstructed by {options.url} with {done['model']}."
            options.write_product(
                load_data(options.scan, reading=options.reading), arrays["object"], arrays["origin_px"].tolist(), remark
            )
    facts = done.get("facts", {})
    judged = {name: facts[name] for name in ("verdict", "trusted") if name in facts}
    judged |= {"cost": done.get("cost"), "kept_until": done.get("kept_until")}
    return {"image": image, "job": job["id"], "model": done["model"], **judged} | {
        name: facts.get(name) for name in ("patterns", "shape", "pixel_size_m", "seconds")
    }


def _check_scan(options: Options) -> None:
    """InputError unless there is one scan: a file, or that of an earlier job, which is not on this machine."""
    from ptycho_ray.errors import InputError

    if (options.scan is None) == (options.like is None):
        found = "neither" if options.scan is None else "both"
        raise InputError(field="scan", found=found, expected="a scan, or --like and an earlier job")
    wanting = {"--estimate": options.estimate, "--product": options.product}
    named = next((name for name, value in wanting.items() if value), None)
    if options.scan is None and named is not None:
        raise InputError(field=named, found="--like", expected="a scan beside it, which is read here")
    if options.refined and options.like is None:
        raise InputError(field="--refined", found="a scan", expected="--like and an earlier job")
