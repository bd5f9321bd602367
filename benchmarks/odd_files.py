"""Files as beamlines and microscopes write them, each odd in one way, and what becomes of them.

One simulated scan is written in every way below; each file is refined for a few iterations, and the image compared with the
true object (correlation of phase and amplitude over the eight turns and all shifts). A file is read rightly if its image is
as good as that of the control, or refused in one sentence that ends with a command.

    python benchmarks/odd_files.py --into docs/formats.md                     # a few minutes on two cores
    python benchmarks/odd_files.py --real FOLDER --into docs/formats.md       # what ``info`` says of each file of a folder
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ptycho_ray.commands.cli import main
from ptycho_ray.data.npz import NpzFile

CLOSE = 0.02
"""How much worse than the control's an image may be that was read rightly."""
N, PIXEL, DETECTOR, WAVELENGTH = 64, 2e-8, 75e-6, 1.2398419843e-10
DISTANCE = PIXEL * N * DETECTOR / WAVELENGTH


@dataclass(frozen=True)
class Case:
    """A file, what is odd about it, which control it is compared with (None: it must be refused), and options of the
    command."""

    name: str
    odd: str
    control: str | None
    write: Callable[[Path, Scan], Any]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """Counts [n, N, N], positions in object pixels, probe and true object of the simulated scan."""

    counts: NDArray[np.uint32]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    probe: NDArray[np.complex64]
    truth: NDArray[np.complex64]

    @property
    def gap(self) -> NDArray[np.bool_]:
        """Pixels between two modules."""
        gap = np.zeros((N, N), bool)
        gap[20:23], gap[:, 40:42] = True, True
        return gap


def simulated(folder: Path) -> Scan:
    """The scan, from ``ptycho-ray simulate``."""
    path = folder / "base.npz"
    words = ["--object", "test_image", "--object-size", "192", "--n-patterns", "300", "--photons", "1e6", "--N", str(N)]
    with contextlib.redirect_stdout(io.StringIO()):
        main(["simulate", str(path), *words])
    with NpzFile(path, 2**30) as npz:
        counts = np.rint(npz.read("diff3d").astype(float) ** 2).astype(np.uint32)
        return Scan(counts, npz.read("ycoords"), npz.read("xcoords"), npz.read("probeGuess"), npz.read("objectGuess"))


def nexus(path: Path, scan: Scan, counts: NDArray, *, wrap: bool = False, mask: NDArray | None = None,
          energy: tuple[float, str] = (10.0, "keV"), unit: tuple[float, str] = (1.0, "m"),
          positions: NDArray | None = None) -> None:  # fmt: skip
    def text(word: str) -> Any:
        return np.array([word.encode()]) if wrap else word

    places = np.stack([scan.rows, scan.columns], 1) * PIXEL if positions is None else positions
    with h5py.File(path, "w") as file:
        for group, kind in (
            ("entry", "NXentry"), ("entry/instrument", "NXinstrument"), ("entry/instrument/detector", "NXdetector"),
            ("entry/instrument/beam", "NXbeam"), ("entry/sample", "NXsample"),
            ("entry/sample/transformations", "NXtransformations"),
        ):  # fmt: skip
            file.create_group(group).attrs["NX_class"] = text(kind)
        file["entry/definition"] = "NXptycho"
        detector = file["entry/instrument/detector"]
        detector["data"] = counts
        for name, value in (("distance", DISTANCE), ("x_pixel_size", DETECTOR), ("y_pixel_size", DETECTOR)):
            detector[name] = value
            detector[name].attrs["units"] = text("m")
        if mask is not None:
            detector["pixel_mask"] = mask
        file["entry/instrument/beam/incident_energy"] = energy[0]
        file["entry/instrument/beam/incident_energy"].attrs["units"] = text(energy[1])
        for axis, column in (("y", 0), ("x", 1)):
            place = file.create_dataset(
                f"entry/sample/transformations/translation_{axis}", data=places[:, column] / unit[0]
            )
            place.attrs["units"] = text(unit[1])


def marked(kind: type, value: float) -> Callable[[Path, Scan], None]:
    """Counts of another type with the module gap marked by a number."""

    def write(path: Path, scan: Scan) -> None:
        counts = scan.counts.astype(kind)
        counts[:, scan.gap] = value
        nexus(path, scan, counts)

    return write


def dark_subtracted(path: Path, scan: Scan) -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, scan.counts.shape).astype(np.float32)
    nexus(path, scan, scan.counts + noise)


def gain(path: Path, scan: Scan) -> None:
    nexus(path, scan, (scan.counts * 2.5).astype(np.float32))


def monitor(path: Path, scan: Scan) -> None:
    """Intensities divided by a monitor, under the name of amplitudes."""
    divided = scan.counts / np.random.default_rng(0).uniform(900, 1100, (len(scan.counts), 1, 1))
    np.savez(path, diff3d=divided.astype(np.float32), xcoords=scan.columns, ycoords=scan.rows, probeGuess=scan.probe)


def bad_frames(path: Path, scan: Scan) -> None:
    amplitude = np.sqrt(scan.counts.astype(np.float32))
    amplitude[17], amplitude[99] = 0, np.nan
    np.savez(path, diff3d=amplitude, xcoords=scan.columns, ycoords=scan.rows, probeGuess=scan.probe)


def matlab(path: Path, scan: Scan) -> None:
    """fold_slice: the pair of files of MATLAB, rows and columns exchanged."""
    with h5py.File(path, "w") as file:
        file["dp"] = np.ascontiguousarray(scan.counts.swapaxes(1, 2))
    with h5py.File(path.with_name(path.name.replace("_dp", "_para")), "w") as file:
        file["ppX"], file["ppY"], file["lambda"], file["dx"] = (
            scan.columns * PIXEL,
            scan.rows * PIXEL,
            WAVELENGTH,
            PIXEL,
        )


def plain(path: Path, scan: Scan, counts: NDArray, rows: slice = slice(None), **more: NDArray) -> None:
    corners = np.stack([scan.rows, scan.columns], 1)[rows] - N // 2
    with h5py.File(path, "w") as file:
        file["dp"], file["pos"], file["probe"] = counts, corners, scan.probe
        for name, values in more.items():
            file[name] = values


def eiger(path: Path, scan: Scan, *, last: int = 3, table: str = "", mask: NDArray | None = None, energy: float = 1e4,
          distance: float = DISTANCE, description: str = "Dectris EIGER2", n: int = 300) -> None:  # fmt: skip
    stem = path.name.removesuffix("_master.h5")
    for number in range(1, last + 1):
        with h5py.File(path.with_name(f"{stem}_data_{number:06d}.h5"), "w") as file:
            file["entry/data/data"] = scan.counts[(number - 1) * 100 : number * 100]
    with h5py.File(path, "w") as file:
        for number in (1, 2, 3):
            link = h5py.ExternalLink(f"{stem}_data_{number:06d}.h5", "entry/data/data")
            file[f"entry/data/data_{number:06d}"] = link
        detector = file.create_group("entry/instrument/detector")
        detector["detector_distance"], detector["description"] = distance, np.bytes_(description)
        detector["x_pixel_size"] = detector["y_pixel_size"] = DETECTOR
        detector["detectorSpecific/photon_energy"] = energy
        if mask is not None:
            detector["detectorSpecific/pixel_mask"] = mask
    metres = np.stack([scan.rows, scan.columns], 1)[:n] * PIXEL
    path.with_name(f"{stem}.csv").write_text(table or "\n".join(f"{y!r},{x!r}" for y, x in metres.tolist()))


def arina(path: Path, scan: Scan) -> None:
    """Electrons of 300 keV, with positions in the object pixel of their wavelength, 0.2051 nm."""
    pixel = 1.968749e-12 * 0.5 / (N * DETECTOR)
    table = "\n".join(
        f"{float(y * pixel)!r},{float(x * pixel)!r}" for y, x in zip(scan.rows, scan.columns, strict=True)
    )
    eiger(path, scan, table=table, energy=3e5, distance=0.5, description="Dectris ARINA")


def with_header(path: Path, scan: Scan) -> None:
    lines = [f"{k};{x * PIXEL * 1e6:.6f};{y * PIXEL * 1e6:.6f}".replace(".", ",") for k, (y, x) in
             enumerate(zip(scan.rows, scan.columns, strict=True))]  # fmt: skip
    eiger(path, scan, table="\n".join(["frame;X [µm];Y [µm]", *lines]))


def spike(path: Path, scan: Scan) -> None:
    places = np.stack([scan.rows, scan.columns], 1) * PIXEL
    places[77] += 1.0
    places[120] = np.nan
    nexus(path, scan, scan.counts, positions=places)


def without_two(path: Path, scan: Scan) -> None:
    places = np.stack([scan.rows, scan.columns], 1) * PIXEL
    nexus(path, scan, np.delete(scan.counts, [77, 120], axis=0), positions=np.delete(places, [77, 120], axis=0))


def hxn(path: Path, scan: Scan) -> None:
    turned = np.fft.fftshift(np.rot90(np.sqrt(scan.counts), axes=(2, 1)), axes=(1, 2))
    with h5py.File(path, "w") as file:
        file["diffamp"], file["points"] = turned, np.stack([scan.columns, scan.rows]) * PIXEL * 1e6
        file["z_m"], file["lambda_nm"], file["ccd_pixel_um"], file["angle"] = (
            DISTANCE,
            WAVELENGTH * 1e9,
            DETECTOR * 1e6,
            0.0,
        )


def empad(path: Path, scan: Scan) -> None:
    raw = np.zeros((300, 130, 128), np.float32)
    raw[:, 32:96, 32:96] = scan.counts
    raw.tofile(path)


def py4dstem(path: Path, scan: Scan) -> None:
    with h5py.File(path, "w") as file:
        file["datacube_root/datacube/data"] = scan.counts[:289].reshape(17, 17, N, N)
        for axis in range(4):
            file[f"datacube_root/datacube/dim{axis}"] = np.array([0, 0.1])


CASES = (
    Case("plain.nxs", "nothing (control without a probe)", "plain.nxs", lambda p, s: nexus(p, s, s.counts)),
    Case("probe.h5", "nothing (control with the exact probe)", "probe.h5", lambda p, s: plain(p, s, s.counts)),
    Case("gap_masked.nxs", "nothing (control with a module gap in its mask)", "gap_masked.nxs",
         lambda p, s: nexus(p, s, np.where(s.gap, 0, s.counts), mask=s.gap.astype(np.uint32))),
    *(
        Case(f"gap_{kind.__name__}_{value}.nxs".replace("-", "minus"), f"module gap marked {value} in {kind.__name__}",
             "gap_masked.nxs", marked(kind, value))
        for kind, value in ((np.uint32, 2**32 - 1), (np.float32, 2**32 - 1), (np.int64, 2**32 - 1), (np.uint32, 2**32 - 2),
                            (np.int32, -1), (np.float64, -2), (np.float32, float("nan")), (np.int64, 2**31 - 1))
    ),
    Case("dark.nxs", "dark image subtracted: noise below zero", "plain.nxs", dark_subtracted),
    Case("gain.nxs", "a gain of 2.5", "plain.nxs", gain),
    Case("monitor.npz", "intensities divided by a monitor, under the name of amplitudes", "probe.h5", monitor),
    Case("bad_frames.npz", "one frame without light, one of NaN", "probe.h5", bad_frames),
    Case("arrayattr.nxs", "NX_class and units are arrays of one text", "plain.nxs",
         lambda p, s: nexus(p, s, s.counts, wrap=True)),
    Case("units.nxs", "positions in 'microns'", "plain.nxs", lambda p, s: nexus(p, s, s.counts, unit=(1e-6, "microns"))),
    Case("mask1good.nxs", "mask with 1 = good", "gap_masked.nxs",
         lambda p, s: nexus(p, s, np.where(s.gap, 0, s.counts), mask=(~s.gap).astype(np.uint32))),
    Case("plainmask.h5", "mask under the name 'mask', 1 = good", "probe.h5",
         lambda p, s: plain(p, s, np.where(s.gap, 0, s.counts), mask=(~s.gap).astype(np.uint8))),
    Case("roimask_master.h5", "mask of the whole detector, frames of a region", "plain.nxs",
         lambda p, s: eiger(p, s, mask=np.ones((1065, 1030), np.uint32))),
    Case("header_master.h5", "table with a header, decimal commas, x before y, micrometres", "plain.nxs", with_header),
    Case("spike.nxs", "an encoder's spike of 1 m, a NaN position", "without_two.nxs", spike),
    Case("without_two.nxs", "nothing (control without these two patterns)", "without_two.nxs", without_two),
    Case("aborted_master.h5", "last link leads nowhere (200 of 300 frames)", "first200.nxs",
         lambda p, s: eiger(p, s, last=2, n=200)),
    Case("first200.nxs", "nothing (control of 200 patterns)", "first200.nxs",
         lambda p, s: nexus(p, s, s.counts[:200], positions=np.stack([s.rows, s.columns], 1)[:200] * PIXEL)),
    Case("fewer_master.h5", "290 positions for 300 frames", None, lambda p, s: eiger(p, s, n=290)),
    Case("first290.nxs", "nothing (control of 290 patterns)", "first290.nxs",
         lambda p, s: nexus(p, s, s.counts[:290], positions=np.stack([s.rows, s.columns], 1)[:290] * PIXEL)),
    Case("fewer2_master.h5", "the same, with --select", "first290.nxs", lambda p, s: eiger(p, s, n=290), ("--select", "0:290")),
    Case("data_roi0_dp.hdf5", "fold_slice: rows and columns exchanged", "plain.nxs", matlab),
    Case("last_axis.nxs", "frames as (rows, columns, n)", "plain.nxs",
         lambda p, s: nexus(p, s, np.ascontiguousarray(np.moveaxis(s.counts, 0, 2)))),
    Case("cubic.h5", "64 patterns of 64 x 64 as (rows, columns, n)", "first64.h5",
         lambda p, s: plain(p, s, np.ascontiguousarray(np.moveaxis(s.counts[:64], 0, 2)), slice(64))),
    Case("first64.h5", "nothing (control of 64 patterns)", "first64.h5", lambda p, s: plain(p, s, s.counts[:64], slice(64))),
    Case("energy.nxs", "energy of 0.009 eV", None, lambda p, s: nexus(p, s, s.counts, energy=(0.009, "eV"))),
    Case("arina_master.h5", "electrons of 300 keV (DECTRIS ARINA)", "plain.nxs", arina),
    Case("scan_34784.h5", "NSLS-II HXN: amplitudes, corner, turned", "plain.nxs", hxn),
    Case("empad_x20_y15.raw", "EMPAD without its XML", None, empad),
    Case("py4dstem.h5", "4D cube without units", None, py4dstem),
)  # fmt: skip


def likeness(image: NDArray, weight: NDArray, truth: NDArray) -> tuple[float, float]:
    """Correlation of phase and amplitude of an image with the truth, the best over eight turns and all shifts."""
    rows, columns = np.where(weight > 0.2 * weight.max())
    image = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    margin = [int(0.12 * side) for side in image.shape]
    image = image[margin[0] : image.shape[0] - margin[0], margin[1] : image.shape[1] - margin[1]]
    found = []
    for transpose, flip_rows, flip_columns in itertools.product((False, True), repeat=3):
        turned = image.T if transpose else image
        turned = turned[::-1] if flip_rows else turned
        turned = turned[:, ::-1] if flip_columns else turned
        turned = turned[: truth.shape[0], : truth.shape[1]]
        phases = [np.angle(each * np.exp(-1j * np.angle(each.mean()))) for each in (turned, truth)]
        found.append((_correlation(*phases), _correlation(np.abs(turned), np.abs(truth))))
    return max(found, key=sum)


def _correlation(part: NDArray, whole: NDArray) -> float:
    """The largest correlation coefficient of ``part`` with a piece of ``whole``."""
    part = part - part.mean()
    shape = [a + b for a, b in zip(part.shape, whole.shape, strict=True)]

    def against(values: NDArray, kernel: NDArray) -> NDArray:
        product = np.fft.ifft2(np.fft.fft2(values, shape) * np.conj(np.fft.fft2(kernel, shape))).real
        return product[: whole.shape[0] - part.shape[0] + 1, : whole.shape[1] - part.shape[1] + 1]

    ones = np.ones(part.shape)
    variance = against(whole**2, ones) - against(whole, ones) ** 2 / part.size
    scale = np.sqrt(np.maximum(variance, 1e-9) * max(float((part**2).sum()), 1e-12))
    return float((against(whole, part) / scale).max())


def run(case: Case, folder: Path, scan: Scan, iterations: int) -> dict[str, Any]:
    """Refine one case. Phase and amplitude of its image, or the sentence with which it was refused."""
    folder = folder / f"case_{case.name}"
    folder.mkdir()
    path, output = folder / case.name, folder / "image"
    case.write(path, scan)
    words = [
        "refine",
        str(path),
        "--from",
        "flat",
        "--iterations",
        str(iterations),
        "--output-dir",
        str(output),
        "--json",
    ]
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        code = main([*words, *case.options])
    lines = said.getvalue().replace(f"{path}: ", "").replace(f"{folder}/", "").splitlines()
    notes = [
        line.removeprefix("warning: ") for line in lines if line.startswith("warning: ") and "no probe" not in line
    ]
    result: dict[str, Any] = {"case": case, "code": code, "notes": notes}
    if code:
        return result | {"error": json.loads(told.getvalue().splitlines()[-1])["error"].replace(f"{folder}/", "")}
    with NpzFile(output / "reconstruction.npz", 2**30) as npz:
        return result | {"likeness": likeness(npz.read("object"), npz.read("weight"), scan.truth)}


def verdict(result: dict[str, Any], controls: dict[str, tuple[float, float]]) -> str:
    """'read rightly', 'refused with a way on', or what went wrong."""
    case: Case = result["case"]
    if "error" in result:
        return "refused, with a way on" if case.control is None and "--" in result["error"] else "REFUSED"
    if case.control is None:
        said = any("--" in note for note in result["notes"])
        return "named" if said else "SILENT"
    worse = max(a - b for a, b in zip(controls[case.control], result["likeness"], strict=True))
    return "read rightly" if worse <= CLOSE else f"WRONG by {worse:.3f}"


def table(results: list[dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    controls = {each["case"].name: each["likeness"] for each in results if "likeness" in each}
    lines = ["| file | what is odd | phase / amplitude | verdict | what was said |", "| --- | --- | --- | --- | --- |"]
    for each in results:
        phase = "{:.3f} / {:.3f}".format(*each["likeness"]) if "likeness" in each else "-"
        said = "; ".join(each["notes"]) or each.get("error", "")
        case = each["case"]
        lines.append(f"| `{case.name}` | {case.odd} | {phase} | {verdict(each, controls)} | {said.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def real_files(folder: Path) -> str:
    """What ``info`` says of each file of a folder, the first sentence and the number of lines."""
    lines = ["| file | what `info` says first | lines | exit code |", "| --- | --- | --- | --- |"]
    for path in sorted(folder.iterdir()):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()):
            code = main(["info", str(path)])
        said = told.getvalue().replace(f"{path.parent}/", "")
        facts = io.StringIO()
        with contextlib.redirect_stdout(facts), contextlib.redirect_stderr(io.StringIO()):
            main(["info", str(path), "--json"])
        first = json.loads(facts.getvalue()).get("verdict", "").replace(f"{path.parent}/", "").replace("|", "/")
        lines.append(f"| `{path.name}` | {first} | {len(said.splitlines())} | {code} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="page whose table is replaced; printed if not given")
    parser.add_argument("--only", nargs="*", help="names of cases, with their controls")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--real", type=Path, help="instead: describe the files of this folder")
    return parser.parse_args()


def run_all() -> None:
    options = parse()
    if options.real:
        text = real_files(options.real)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            scan = simulated(folder)
            chosen = [case for case in CASES if not options.only or case.name in options.only]
            text = table([run(case, folder, scan, options.iterations) for case in tqdm(chosen)])
    if options.into:
        marks = [f"<!-- {'real' if options.real else 'odd'} files: {end} -->" for end in ("begin", "end")]
        before, _, rest = options.into.read_text().partition(marks[0])
        after = rest.partition(marks[1])[2]
        options.into.write_text(f"{before}{marks[0]}\n{text}{marks[1]}{after}")
    else:
        print(text)


if __name__ == "__main__":
    run_all()
