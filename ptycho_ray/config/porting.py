"""Words of PtychoPINN's configuration files and calls that are no settings here: other names, and what has no meaning here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

#: Our setting and its key in PtychoPINN's flat dictionary, where they differ.
KEY_MAPPINGS = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "positions_provided": "positions.provided",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
}
#: Its flat names, and those of other places of its files.
OTHER_NAMES = {theirs: ours for ours, theirs in KEY_MAPPINGS.items()} | {
    "learning_rate": "execution.learning_rate",
    "epochs": "nepochs",
    "max_epochs": "nepochs",
    "K": "neighbor_count",
    "npseed": "seed",
}
#: Sections whose entries are settings.
SECTIONS = ("sampling", "training", "data")
_GLOBAL = "it belongs to PtychoPINN's simulation on a grid"
NO_MEANING = {
    "stitch_crop_size": "patches are stitched whole, weighted by the illumination; reassemble_cdi_image(stitch='crop', M=20)",
    "debug": "nothing is printed more or less by it; --debug of a command shows tracebacks",
    "quiet": "standard error has the progress",
    "verbose": "standard error has the progress",
    "console_level": "standard error has the progress",
    "do_stitching": "the command train always makes the image",
    "use_xla_translate": "there is no XLA",
    "use_xla_compile": "there is no XLA",
    "h5_path": "a model is always called wts.h5.zip",
    "label": "folders have names",
    "default_probe_scale": "a probe is scaled to the photons of the scan",
    "max_position_jitter": "canvases are as large as the positions need",
    "set_phi": "the object of a simulation has phase_range",
    "data_source": _GLOBAL,
    "nimgs_train": _GLOBAL,
    "nimgs_test": _GLOBAL,
    "big_gridsize": _GLOBAL,
    "offset": _GLOBAL,
    "outer_offset_train": _GLOBAL,
    "outer_offset_test": _GLOBAL,
    "sim_jitter_scale": _GLOBAL,
    "size": _GLOBAL,
}


def ported(values: Mapping[str, Any], source: str, known: list[str]) -> dict[str, Any]:
    """``values`` with our names; what has no meaning here is left out, with a warning that says why. Other names stay."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        inner = name.removeprefix("model.")
        ours = OTHER_NAMES.get(inner)
        if name in known or f"model.{name}" in known:
            plain[name] = value
        elif ours is not None and (ours in known or f"model.{ours}" in known) and ours not in values:
            plain[ours] = value
        elif inner in NO_MEANING:
            warnings.warn(f"{source}: {name} has no meaning here: {NO_MEANING[inner]}", stacklevel=2)
        else:
            plain[name] = value
    return plain
