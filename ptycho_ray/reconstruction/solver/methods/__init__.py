"""Methods by name. Each has ``iterate(run)``, one pass over the patterns; a new one forgets what the last one had gathered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ptycho_ray.reconstruction.solver.methods.difference_map import DifferenceMap
from ptycho_ray.reconstruction.solver.methods.gradient import Accelerated, Adam
from ptycho_ray.reconstruction.solver.methods.projection import Iterative, LeastSquares
from ptycho_ray.reconstruction.solver.nuisances import Nuisances
from ptycho_ray.reconstruction.solver.run import Run


class Method(Protocol):
    """One way to improve the estimate."""

    nuisances: Nuisances

    def iterate(self, run: Run) -> float: ...


METHODS: dict[str, Callable[[Run], Method]] = {
    "adam": Adam,
    "accelerated": Accelerated,
    "epie": Iterative,
    "rpie": Iterative,
    "lsqml": LeastSquares,
    "dm": DifferenceMap,
}
