"""What a training is given where nobody chose: the network that ``docs/networks.md`` recommends, and epochs enough for it.

``ptycho-ray train``, a sweep over networks and ``ptycho_ray.reconstruct`` begin with these values; the classes of settings keep
the defaults of PtychoPINN, which scripts ported from there rely on (``docs/decisions/0020-defaults.md``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

#: The network where none was chosen: it improves a phase retrieval of each pattern.
NETWORK: dict[str, Any] = {
    "model.architecture": "unet",
    "model.fno_width": 16,
    "model.probe_conditioning": "retrieval",
}
#: Passes over the data that it and ``unrolled`` need, which begin with an image; the others keep the default of the settings.
RETRIEVAL_EPOCHS = 5
#: What ``unrolled`` is given where it was chosen: overlapping patterns to learn from, and few channels.
UNROLLED: dict[str, Any] = {"model.gridsize": 2, "model.fno_width": 8}
#: Filters of ``cnn`` where it was chosen; settings that only ``cnn`` has choose it.
CNN_FILTERS_SCALE = 1
ONLY_CNN = frozenset(
    f"model.{name}" for name in ("n_filters_scale", "amp_activation", "pad_object", "probe_big", "cnn_output_mode")
)


def recommended_settings(
    given: Collection[str], *, architecture: str, probe_conditioning: str, probe_is_known: bool = True
) -> dict[str, Any]:
    """The recommended values of settings that nobody gave.

    Args:
        given: names of the settings that were given (``model.architecture``, ``nepochs``).
        architecture, probe_conditioning: their values, those that were given or the defaults.
        probe_is_known: False for a scan without a probe, from whose guess nothing can be retrieved.

    Returns:
        by name; empty if the choice of a network was made completely.
    """
    names, found = set(given), {}
    conditioned = "model.probe_conditioning" in names
    retrieval = probe_conditioning == "retrieval" if conditioned else probe_is_known
    if "model.architecture" not in names and not ONLY_CNN & names and retrieval:
        found = {name: value for name, value in NETWORK.items() if name not in names}
        probe_conditioning = "retrieval"
    elif architecture == "cnn" and "model.n_filters_scale" not in names:
        found["model.n_filters_scale"] = CNN_FILTERS_SCALE
    elif architecture == "unrolled":
        found = {name: value for name, value in UNROLLED.items() if name not in names}
    starts_well = probe_conditioning == "retrieval" or architecture == "unrolled"
    if starts_well and "nepochs" not in names:
        found["nepochs"] = RETRIEVAL_EPOCHS
    return found
