"""``ptycho-ray simulate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ptycho_ray.command_line import parse
from ptycho_ray.commands.common import FILE, SCAN, Common, Result, describe_scan
from ptycho_ray.errors import InputError


@dataclass(kw_only=True)
class Options(Common):
    """Make a scan of an invented object, with photon noise, and with the truth in the file.

    Example: ptycho-ray simulate scan.npz --object siemens --n-patterns 400 --photons 1e6
    """

    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """File to write: .npz, or .h5 for HDF5."""
    object: Literal["lines", "grf", "dead_leaves", "siemens", "test_image", "points", "diagonals"] = "lines"
    """What the sample looks like; 'grf' is a Gaussian random field."""
    size: int = 224
    """Side of the object in pixels."""
    probe: Literal["disc", "gaussian", "zernike", "zone_plate", "default"] = "disc"
    """Shape of the illumination; 'default' is that of PtychoPINN."""
    probe_file: Annotated[Path | None, FILE] = None
    """Take the illumination from this scan or array file instead."""
    probe_seed: int = 0
    """Seed of the illumination, apart from --seed so that scans of several objects can share one."""
    modes: int = 1
    """Incoherent modes of the illumination."""
    defocus_m: float = 0.0
    """Distance of the sample from the focus in metres."""
    scan: Literal["grid", "jitter", "spiral", "fermat", "random"] = "jitter"
    """Pattern of the positions; 'jitter' is a raster with random deviations."""
    N: int = 64
    """Side of a diffraction pattern in pixels."""
    n_patterns: int = 512
    """How many diffraction patterns."""
    photons: float = 1e6
    """Photons of a pattern without a sample."""
    noise: bool = True
    """Draw the photons at random (Poisson); otherwise the exact mean is stored."""
    seed: int = 0
    """Seed of object, positions and photons: the same seed gives the same file."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray simulate").options
    for name in ("size", "N", "n_patterns", "photons", "modes"):
        if not getattr(options, name) > 0:
            raise InputError(
                field=f"--{name.replace('_', '-')}", found=getattr(options, name), expected="a number above 0"
            )
    import numpy as np

    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe, probe_from_file, with_photons
    from ptycho_ray.simulation.scans import make_scan
    from ptycho_ray.simulation.simulate import simulate_scan

    rng = np.random.default_rng(options.seed)
    shape = (options.size, options.size)
    truth = make_object(options.object, shape, rng)
    if options.probe_file is not None:
        probe = with_photons(probe_from_file(options.probe_file, options.N), options.photons)
    else:
        probe_rng = np.random.default_rng(options.probe_seed)
        probe = make_probe(
            options.probe,
            options.N,
            probe_rng,
            photons=options.photons,
            modes=options.modes,
            defocus_m=options.defocus_m,
        )
    positions = make_scan(options.scan, shape, options.N, rng, n_patterns=options.n_patterns)
    told = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in ("json", "debug", "output")
    }
    scan = simulate_scan(
        truth,
        probe,
        positions,
        rng=rng,
        noise=options.noise,
        metadata={"simulation": told, "nphotons": options.photons},
    )
    scan.to_file(options.output)
    return {"file": options.output, **describe_scan(scan)}
