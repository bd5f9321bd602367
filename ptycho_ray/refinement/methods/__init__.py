"""Methods by name. Each has ``iterate(run)``, one pass over the patterns; a new instance starts without history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ptycho_ray.refinement.auxiliary_unknowns import AuxiliaryUnknowns
from ptycho_ray.refinement.methods.difference_map import DifferenceMap
from ptycho_ray.refinement.methods.gradient import Accelerated, Adam
from ptycho_ray.refinement.methods.projection import Iterative, LeastSquares
from ptycho_ray.refinement.run import Run


class Method(Protocol):
    """One way to improve the estimate."""

    auxiliary: AuxiliaryUnknowns

    def iterate(self, run: Run) -> Tensor | float: ...


#: Methods whose iteration returns the loss of the point that it starts from: a bad one is the fault of the step before.
JUDGE_THEIR_START = ("accelerated",)

METHODS: dict[str, Callable[[Run], Method]] = {
    "adam": Adam,
    "accelerated": Accelerated,
    "epie": Iterative,
    "rpie": Iterative,
    "lsqml": LeastSquares,
    "dm": DifferenceMap,
}
