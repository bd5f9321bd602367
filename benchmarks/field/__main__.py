"""The benchmark of the field: contracts, methods, one command a row. docs/field.md has the results and how to add a row.

python -m benchmarks.field run lines128/solver --seed 1            # one row
python -m benchmarks.field run lines128                            # all rows of a contract that are missing
python -m benchmarks.field run lines128/mine --bundle MODEL        # a trained model of yours as a row
python -m benchmarks.field export lines128 FOLDER --seed 1         # the scans, for another program ...
python -m benchmarks.field run lines128/theirs --images FOLDER     # ... and its images, CASE.npy, as a row
python -m benchmarks.field train lines128 --output-dir MODEL       # a network by the contract's training set
python -m benchmarks.field page                                    # write docs/field.md from all results
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.field import page, results, training
from benchmarks.field.contracts import CONTRACTS
from benchmarks.field.figures import figures_of
from benchmarks.field.methods import (
    METHODS,
    Method,
    by_bundle,
    methods_of,
    of_folder,
)
from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import PRETRAINED
from ptycho_ray.data.formats import write_scan
from ptycho_ray.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "field.md"
DATA = ROOT.parent / "shared" / "data"
SEEDS = (1, 2, 3)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.field", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="measure a row, or all of a contract that are missing")
    run.add_argument("row", help="CONTRACT/METHOD, or CONTRACT")
    run.add_argument("--seed", type=int, action="append", help="1, 2 and 3 if not given")
    source = run.add_mutually_exclusive_group()
    source.add_argument("--bundle", type=Path, help="a trained model: a new row of that name")
    source.add_argument("--images", type=Path, help="folder with CASE.npy of another program: a new row of that name")
    run.add_argument("--uses", default="not stated", help="which information the new row uses, in words")
    run.add_argument("--again", action="store_true", help="measure although there is a result")
    run.add_argument("--results", type=Path, default=results.FOLDER)
    export = verbs.add_parser("export", help="write the scans of a contract for another program")
    export.add_argument("contract", choices=CONTRACTS)
    export.add_argument("folder", type=Path)
    export.add_argument("--seed", type=int, default=1)
    train = verbs.add_parser("train", help="train a network on the training set of a contract")
    train.add_argument("contract", choices=training.RECIPES)
    train.add_argument("--output-dir", type=Path, required=True)
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--epochs", type=int, help="those of the recipe if not given")
    verbs.add_parser("page", help="write docs/field.md")
    for verb in (run, export, train):
        verb.add_argument("--data", type=Path, default=DATA, help="folder of the scans (default: ../shared/data)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    try:
        if given.verb == "page":
            PAGE.write_text(page.text(PAGE.read_text(), results.all_results()))
        elif given.verb == "export":
            export_scans(given.contract, given.seed, given.data, given.folder)
        elif given.verb == "train":
            training.train(given.contract, given.seed, given.data, given.output_dir, given.epochs)
        else:
            run_rows(given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run_rows(given: argparse.Namespace) -> None:
    """The rows that were asked for, a result file each; what is measured already is left out."""
    contract, _, name = given.row.partition("/")
    if contract not in CONTRACTS:
        raise InputError(field="contract", found=contract, expected=", ".join(CONTRACTS))
    for seed in given.seed or SEEDS:
        for method in [name] if name else methods_of(contract):
            path = results.path_of(contract, method, seed, given.results)
            if path.exists() and not given.again:
                print(f"{path.name}: measured already (--again measures anew)", flush=True)
                continue
            chosen, trained_s = method_of(contract, method, given)
            measured = measure(contract, method, chosen, seed, given.data, trained_s)
            results.write(measured, given.results)
            print(f"{path.name}: {page.summary(measured)}", flush=True)


def method_of(contract: str, name: str, given: argparse.Namespace) -> tuple[Method, float | None]:
    """A method by its name, or the row that a bundle or a folder stands for; and the seconds of its training."""
    if given.images is not None:
        return Method(functools.partial(of_folder, given.images), given.uses), None
    if given.bundle is not None:
        bundle = load_bundle(given.bundle)
        count = sum(parameter.numel() for model in bundle.models for parameter in model.network.parameters())
        method = Method(functools.partial(by_bundle, bundle), given.uses, parameters=count)
        return method, bundle.provenance.get("cpu_seconds")
    if name not in methods_of(contract):
        raise InputError(
            field="method", found=name, expected=", ".join(methods_of(contract)),
            hint="A new row needs --bundle or --images",
        )  # fmt: skip
    method = METHODS[name]
    if name.startswith("shipped"):
        network = load_bundle(PRETRAINED).model.network
        method = Method(method.make, method.uses, parameters=sum(p.numel() for p in network.parameters()))
    return method, None


def measure(
    contract: str, name: str, method: Method, seed: int, data: Path, training_seconds: float | None = None
) -> results.Result:
    """All cases of a contract by one method: figures, and processor seconds without simulation and scoring."""
    found, seconds = [], 0.0
    for case in CONTRACTS[contract](data, seed):
        began = time.process_time()
        image = method.make(case, seed)
        seconds += time.process_time() - began
        found.append(figures_of(case, image))
    return results.Result(
        contract, name, seed, results.together(found), round(seconds, 1), method.uses, method.parameters,
        training_seconds, f"python -m benchmarks.field run {contract}/{name} --seed {seed}",
    )  # fmt: skip


def export_scans(contract: str, seed: int, data: Path, folder: Path) -> None:
    """Every scan as CASE.npz in PtychoPINN's layout, the truth left out, and the shape that CASE.npy must have."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in CONTRACTS[contract](data, seed):
        case.scan.object_truth = None
        write_scan(case.scan, folder / f"{case.name}.npz")
        print(f"{case.name}.npz: {len(case.scan)} patterns; image complex {case.truth.shape}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
