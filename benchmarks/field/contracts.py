"""The contracts: which scans, and how they are scored. ``docs/field.md`` states each in words, with the published rows.

A contract yields its cases one at a time for a seed, which draws the noise (and, where they are random, objects and probes).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from skimage.restoration import unwrap_phase

from benchmarks.field import natural
from benchmarks.field.cases import Case, Window, believing, exposed, inside, raster
from ptycho_ray.data import RawData, load_data
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.scan_patterns import make_scan
from ptycho_ray.simulation.simulate import simulate_scan

Contract = Callable[[Path, int], Iterator[Case]]
LINES128, LINES64, RUN1084 = "lines128_paper.npz", "lines64_test.npz", "lcls_run1084.npz"


def lines128(data: Path, seed: int) -> Iterator[Case]:
    """The first test image of the reference's paper table, 729 patterns."""
    with np.load(data / LINES128, allow_pickle=False) as scene:
        truth, positions = scene["objects_test"][0], scene["positions_test"].astype(float)
        probe = scene["probe"] * np.sqrt(scene["counts_scale_test"])
    scan = simulate_scan(truth, probe, positions, rng=np.random.default_rng((seed, 1)), sub_pixel="integer")
    training = functools.partial(lines128_overview, data, seed)
    yield Case("test", scan, truth, ((59, 329, 59, 329),), tile_px=10, steps=100, training=training)


def lines128_training(data: Path, seed: int, images: int = 2, step_px: int = 4) -> list[RawData]:
    """The training images of the paper's contract: of both, step 4 px, 8978 patterns."""
    with np.load(data / LINES128, allow_pickle=False) as scene:
        objects, positions = scene["objects_train"][:images], scene["positions_train"].astype(float)
        probe = scene["probe"] * np.sqrt(scene["counts_scale_train"])
    positions = positions[(positions % step_px == 0).all(axis=1)]
    rng = np.random.default_rng((seed, 2))
    return [simulate_scan(truth, probe, positions, rng=rng, sub_pixel="integer") for truth in objects]


def lines128_overview(data: Path, seed: int) -> RawData:
    """Enough of the training set for methods that look at it as one scan: its first image, step 12 px, 484 patterns."""
    return lines128_training(data, seed, images=1, step_px=12)[0]


def lines64(data: Path, seed: int) -> Iterator[Case]:
    """The unseen scan of the reference's small benchmark, 512 patterns: the file itself for seed 1, then drawn anew."""
    yield _scored("test", load_data(data / LINES64)) if seed == 1 else replace(dose_scan(data, 1e9, seed), name="test")


def dose(data: Path, seed: int) -> Iterator[Case]:
    """lines64 with 1e3 to 1e9 photons in the beam."""
    return (dose_scan(data, photons, seed) for photons in (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9))


def dose_scan(data: Path, photons: float, seed: int) -> Case:
    """The scan of lines64, drawn anew with so many photons in the beam."""
    scan, rng = load_data(data / LINES64), np.random.default_rng((seed, 3))
    assert scan.object_truth is not None
    drawn = simulate_scan(
        scan.object_truth, scan.probe, scan.positions_px, photons=photons, rng=rng, sub_pixel="bilinear"
    )
    return _scored(f"{photons:.0e}", drawn)


def _scored(name: str, scan: RawData) -> Case:
    assert scan.object_truth is not None
    return Case(name, scan, scan.object_truth, (inside(scan.positions_px),))


# -- single patterns against overlap, wrong probes: one set of amplitude objects ----------------------------------------


def amplitude_scan(data: Path, probe: NDArray[np.complexfloating], seed: int) -> tuple[RawData, NDArray[np.complex64]]:
    """The reference's lines at 64 pixels: phase zero, 1089 patterns of the first test image, 1e9 photons."""
    with np.load(data / LINES128, allow_pickle=False) as scene:
        truth = np.abs(scene["objects_test"][0]).astype(np.complex64)
    rng = np.random.default_rng((seed, 4))
    return exposed(truth, probe, raster(truth.shape[0], 64, 10), 1e9, rng), truth


def custom_probe(data: Path) -> NDArray[np.complex128]:
    """The probe of LCLS Run 1084 smoothed by half a pixel, [64, 64]."""
    with np.load(data / RUN1084, allow_pickle=False) as file:
        probe = file["probeGuess"].astype(np.complex128)
    return gaussian_filter(probe.real, 0.5) + 1j * gaussian_filter(probe.imag, 0.5)


AMPLITUDE_WINDOW = (27, 357, 27, 357)


def single_shot(data: Path, seed: int) -> Iterator[Case]:
    """One split for single patterns and overlap: a structured probe, and a smoothed disc of flat phase."""
    ideal = make_probe("default", 64, np.random.default_rng(0))[0]
    for name, probe in (("custom", custom_probe(data)), ("ideal", ideal)):
        scan, truth = amplitude_scan(data, probe, seed)
        yield Case(name, scan, truth, (AMPLITUDE_WINDOW,), tile_px=10, steps=100)


def wrong_probe(data: Path, seed: int) -> Iterator[Case]:
    """The patterns of the true probe, and ten probes to believe."""
    true = custom_probe(data)
    scan, truth = amplitude_scan(data, true, seed)
    for name, believed in wrong_probes(true).items():
        yield Case(name, believing(scan, believed), truth, (AMPLITUDE_WINDOW,), register=True, tile_px=10)


def wrong_probes(true: NDArray[np.complexfloating]) -> dict[str, NDArray[np.complexfloating]]:
    """The reference's ten conditions, [N, N]; the photons of each are those of the true one (``believing``)."""
    amplitude, wrapped = np.abs(true), np.angle(true)
    phase = unwrap_phase(wrapped)
    middle = np.median(phase)
    found = {"base": true}
    for scale in (0.75, 0.50, 0.25):
        found[f"curvature_{scale:.2f}"] = amplitude * np.exp(1j * (middle + scale * (phase - middle)))
    for sigma in (0.5, 1.0, 2.0):
        found[f"blur_{sigma:g}px"] = gaussian_filter(amplitude, sigma) * np.exp(1j * wrapped)
    for share, seed in ((0.1, 11), (0.2, 17), (0.4, 23)):
        noise = np.random.default_rng(seed).normal(0, share * np.pi, true.shape)
        found[f"noise_{share:.1f}pi"] = amplitude * np.exp(1j * (wrapped + noise - noise.mean()))
    return found


# -- natural images -----------------------------------------------------------------------------------------------------

#: Columns of tiles of one pattern each; the object is a mosaic of them, since no two share a pixel.
MOSAIC_COLUMNS = 25
#: The published test set has 1000 patches; every twentieth is scored here.
EVERY = 50


def natural128_wheel(data: Path, seed: int) -> Iterator[Case]:
    """Natural images, one pattern each, amplitude and phase made of one grey value: without noise and at three doses."""
    with np.load(data / LINES128, allow_pickle=False) as scene:
        probe = scene["probe"].astype(np.complex128)
    truth, positions = mosaic(natural.transmission(natural.crops("test")[::EVERY]))
    whole, middle = windows(positions, 64), windows(positions, 24)
    rng = np.random.default_rng((seed, 5))
    for name, photons in (("no_noise", 1e9), ("1e9", 1e9), ("1e6", 1e6), ("1e4", 1e4)):
        scan = exposed(truth, probe, positions, photons, rng, noise=name != "no_noise")
        yield Case(name, scan, truth, whole, steps=100, further={f"{name}, centre 48 px": middle})


def mosaic(tiles: NDArray[np.complexfloating]) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    """Tiles [n, N, N] side by side as one object, and the position of each, [n, 2]."""
    n, side = len(tiles), tiles.shape[-1]
    rows = -(-n // MOSAIC_COLUMNS)
    image = np.ones((rows * side, MOSAIC_COLUMNS * side), dtype=np.complex64)
    corners = side * np.stack(np.divmod(np.arange(n), MOSAIC_COLUMNS), axis=-1)
    for (row, column), tile in zip(corners, tiles, strict=True):
        image[row : row + side, column : column + side] = tile
    return image, corners + side / 2.0


def windows(positions: NDArray[np.float64], half: int) -> tuple[Window, ...]:
    """Squares of 2 ``half`` pixels about positions [n, 2]."""
    return tuple((int(r) - half, int(r) + half, int(c) - half, int(c) + half) for r, c in positions)


# -- overlap, probes, error bars, a measured scan -------------------------------------------------------------------------


def overlap(data: Path, seed: int) -> Iterator[Case]:
    """A test image under the probe of sim64 at 1e6 photons, jittered scans from 80 % to 0 % of linear overlap."""
    with np.load(data / "sim64_1e6.npz", allow_pickle=False) as file:
        truth, probe = file["obj"], file["probe"]
    probe = probe if probe.ndim == 3 else probe[None]
    diameter = probe_diameter_px(probe)
    for share in (0.8, 0.6, 0.4, 0.2, 0.0):
        rng = np.random.default_rng((seed, 6))
        positions = make_scan("jitter", truth.shape, probe.shape[-1], rng, step_px=diameter * (1 - share))
        scan = exposed(truth, probe, positions, 1e6, rng, sub_pixel="fourier")
        yield _scored(f"{100 * share:.0f}", scan)


def unseen_probes(data: Path, seed: int) -> Iterator[Case]:
    """Soft random objects under probes of three kinds, none of them drawn from the pretraining's stream; and the scan of
    LCLS Run 1084, simulated from its reconstruction, whose probe is wide and whose phases go round the circle."""
    yield _scored("run1084", load_data(data / RUN1084))
    for k, kind in enumerate(("disc", "gaussian", "zernike")):
        rng = np.random.default_rng((seed, 7, k))
        options = {"rms_rad": rng.uniform(0.3, 1.0)} if kind == "zernike" else {"defocus_m": rng.uniform(1e-3, 3e-3)}
        probe = make_probe(kind, 64, rng, diameter_px=rng.uniform(20, 32), **options)  # type: ignore[arg-type]
        truth = make_object("grf", (160, 160), rng, smoothing_px=2.0, phase_range=(-1.0, 1.0))
        positions = make_scan("jitter", truth.shape, 64, rng, step_px=8.0)
        yield _scored(kind, exposed(truth, probe, positions, 1e6, rng, sub_pixel="fourier"))


#: Objects of the error-bar contract that are scored for a seed; the published one has 100 in all.
DIGITS = 3


def digits(data: Path, seed: int) -> Iterator[Case]:
    """The scan of a published Bayesian study with handwritten digits of another collection: one is the amplitude, the next
    the phase, a disc of 8 pixels in a window of 16, raster steps of 4 to 7 pixels, two doses."""
    from sklearn.datasets import load_digits

    images = load_digits().images / 16.0
    probe = 1j * (np.hypot(*(np.indices((16, 16)) - 7.5)) <= 4.0)
    rng = np.random.default_rng((seed, 8))
    chosen = rng.choice(len(images) - 1, DIGITS, replace=False)
    for step in (4, 5, 6, 7):
        for strength in (10, 100):
            for number, first in enumerate(chosen):
                parts = (np.clip(zoom(images[first + k], 8, order=3), 0, 1) for k in range(2))
                amplitude, phase = ((part + 0.2) / 1.2 for part in parts)
                truth = np.pad(amplitude * np.exp(1j * phase), 8, mode="edge")
                positions = raster(truth.shape[0], 16, step)
                positions += np.clip(rng.normal(0, 0.01, positions.shape), None, truth.shape[0] - 8 - positions)
                positions = np.maximum(positions, 8)
                scan = simulate_scan(truth, strength * probe[None], positions, rng=rng)
                group = f"step {step}, amplitude {strength}"
                name = f"step{step}_amplitude{strength}_{number}"
                yield Case(name, scan, truth, ((16, 64, 16, 64),), group=group)


def star(data: Path, seed: int) -> Iterator[Case]:
    """The measured Siemens star, with the image of another program in place of a truth: agreement, no error."""
    scan = load_data(data / "aps_siemens.npz")
    assert scan.object_truth is not None
    yield Case("aps_siemens", scan, scan.object_truth, (inside(scan.positions_px),), register=True)


CONTRACTS: dict[str, Contract] = {
    "lines64": lines64,
    "lines128": lines128,
    "natural128_wheel": natural128_wheel,
    "single_shot": single_shot,
    "wrong_probe": wrong_probe,
    "dose": dose,
    "overlap": overlap,
    "unseen_probes": unseen_probes,
    "digits": digits,
    "star": star,
}
