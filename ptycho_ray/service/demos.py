"""Demo scans: simulated objects, with the probe of the model that will reconstruct them, if there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptycho_ray.data import RawData
from ptycho_ray.service.engine import LoadedModel
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.scan_patterns import SCANS
from ptycho_ray.simulation.simulate import simulate_scan

DEMOS = {
    "lines": "crossing lines, as in the training data of the reference",
    "siemens": "a Siemens star",
    "dead_leaves": "overlapping discs",
    "test_image": "the cameraman test image",
}
#: Distance of neighbouring positions as a share of the pattern's side; the field in the same unit.
STEP, FIELD = 1 / 10, 3.0
PIXEL_SIZE_M = 20e-9
#: Without a model: side of a pattern, and photons in the probe.
SIDE, PHOTONS = 64, 1e6


def write_demo(name: str, loaded: LoadedModel | None, path: Path) -> Path:
    """Simulate a demo scan for a model (without one, with a disc as probe), with its true object, and write it as NPZ; always
    the same one."""
    rng = np.random.default_rng(7)
    if loaded is None:
        n, unit = SIDE, np.float32(1)
        probe = make_probe("disc", n, np.random.default_rng(7), photons=PHOTONS)
    else:
        model = loaded.bundle.model
        probe = model.probe.detach().cpu().numpy()
        n = probe.shape[-1]  # one network may have been trained on patterns of several sides
        unit = np.float32(np.sqrt(model.normalisation.photon_scale))  # of the amplitudes in the model's training file
    side = int(FIELD * n)
    image = make_object(name, (side, side), rng)
    positions = SCANS["jitter"]((side, side), n, STEP * n, rng)
    measured = simulate_scan(image, probe, positions, rng=rng)
    scan = RawData(
        measured.xcoords,
        measured.ycoords,
        None,
        None,
        measured.patterns.amplitude() / unit,
        measured.probe / unit,
        objectGuess=image,
        domain="amplitude",
        counts_are_photons=measured.counts_are_photons and unit == 1,
        pixel_size_m=PIXEL_SIZE_M,
    )
    scan.to_file(path)
    return path
