"""Likelihoods, formats and live sources of somebody else, for this process; networks are registered in
``models/registry.py``. docs/extending.md shows a package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ptycho_ray.config.extensions import register
from ptycho_ray.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from ptycho_ray.data.formats import Format


def register_likelihood(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Make a term of the training loss known as ``likelihood=name``: a function of the predicted and the measured photons of
    each pixel, float32 [B, C, N, N], that returns its misfit a pixel; its mean is divided by the mean photons a pixel."""
    register("likelihood", name, function)


def register_format(form: Format) -> None:
    """Make a format known under its name; it is tried before ours."""
    from ptycho_ray.data.formats import FORMATS, Format

    if not isinstance(form, Format):
        raise ConfigurationError(
            field="form", found=type(form).__name__, expected="a ptycho_ray.data.formats.Format(name, title, kind, ...)"
        )
    register("format", form.name, form, taken=tuple(each.name for each in FORMATS))


def register_source(scheme: str, source: Callable[[str, Any], Iterable[Any]]) -> None:
    """Make ``ptycho-ray watch SCHEME://...`` take its patterns from ``source(address, ending)``, which yields ``Frames``
    (``ptycho_ray.live.growing_files``) until the scan is complete."""
    register("source", scheme, source, taken=("tcp", "ipc", "inproc", "pva"))
