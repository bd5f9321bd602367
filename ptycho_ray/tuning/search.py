"""Proposal of trials: Optuna's samplers over the search space, or a grid.

The study is kept in memory. What persists is the journal of the sweep (``ptycho_ray.tracking.sweep_record``): when a
sweep is resumed, all known results are added to a new study.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.tracking.objectives import OBJECTIVES
from ptycho_ray.tuning.parameter import Parameter, Values
from ptycho_ray.tuning.space import Space

if TYPE_CHECKING:
    import optuna

#: Random trials before a sampler draws conclusions; few, since sweeps are small.
STARTUP_TRIALS = 8


class Search:
    """Proposes the parameters of trials and learns from their figures.

    Args:
        seed: the same seed and the same figures in the same order give the same proposals.
    """

    def __init__(self, space: Space, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigurationError(
                "Optuna is not installed", field="search", found="nothing", expected="pip install 'ptycho-ray[cluster]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.kind = space, chosen_search(space)
        self.grid = deque(space.grid()) if self.kind == "grid" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                directions=["minimize" if OBJECTIVES[n].mode == "min" else "maximize" for n in space.objectives],
                sampler=_sampler(self.kind, seed),
            )
        self._asked: dict[int, tuple[optuna.trial.Trial, Values]] = {}
        self.seed = seed
        self._waiting: deque[Values] = deque(dict(point) for point in space.points)

    def ask(self, number: int) -> Values | None:
        """Parameters for trial ``number``; None when a grid is used up."""
        if self.grid is not None and not self._waiting:
            if not self.grid:
                return None
            self._waiting.append(self.grid.popleft())
        study = self._warped_study(number) if self.kind == "gp" else self.study
        if self._waiting:
            study.enqueue_trial(self._waiting.popleft())
        trial = study.ask()
        chosen: Values = {}
        for parameter in self.space.parameters:
            if parameter.exists(chosen):
                chosen[parameter.name] = _suggested(trial, parameter)
        self._asked[number] = (trial, chosen)
        return chosen

    def report(self, number: int, epoch: int, figures: Mapping[str, float]) -> None:
        """An intermediate value, for a trial that may be stopped."""
        if len(self.space.objectives) == 1:
            self._asked[number][0].report(figures[self.space.objectives[0]], epoch)

    def tell(self, number: int, figures: Mapping[str, float] | None, *, stopped: bool = False) -> None:
        """The figures of trial ``number``; None if it failed, ``stopped`` if it was stopped early."""
        from optuna.trial import TrialState

        trial, chosen = self._asked.pop(number)
        if self.kind == "gp":
            if figures is not None and not stopped:
                self.learn(chosen, figures)
        elif figures is None:
            self.study.tell(trial, state=TrialState.FAIL)
        elif stopped and len(self.space.objectives) == 1:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [figures[name] for name in self.space.objectives])

    def _warped_study(self, number: int) -> optuna.Study:
        """A study for one proposal, which knows the trials so far by ``log(1 + (loss - best) / (median - best))``.

        Far from the right experiment the loss is larger by orders of magnitude; without the logarithm a Gaussian
        process would not resolve the minimum. Trials in progress are marked as such.
        """
        import optuna
        from optuna.trial import TrialState, create_trial

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=_sampler("gp", self.seed + number))
        known = [trial for trial in self.study.trials if trial.state == TrialState.COMPLETE]
        sign = 1 if OBJECTIVES[self.space.objectives[0]].mode == "min" else -1
        losses = np.array([sign * trial.values[0] for trial in known])
        if len(losses):
            losses = losses - losses.min()
            losses = np.log1p(losses / (np.median(losses) or 1.0))
        for trial, loss in zip(known, losses, strict=True):
            study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=float(loss)))
        for _, chosen in self._asked.values():
            distributions = {p.name: _distribution(p) for p in self.space.parameters if p.name in chosen}
            study.add_trial(create_trial(state=TrialState.RUNNING, params=chosen, distributions=distributions))
        return study

    def learn(self, parameters: Mapping[str, Any], figures: Mapping[str, float]) -> bool:
        """Add a finished trial of an earlier sweep; False if it does not lie in this space."""
        import optuna

        by_name = {p.name: p for p in self.space.parameters}
        inside = {name: value for name, value in parameters.items() if name in by_name and by_name[name].holds(value)}
        known = all(name in figures for name in self.space.objectives)
        if not known or {p.name for p in self.space.parameters if p.exists(parameters)} != set(inside):
            return False
        self.study.add_trial(
            optuna.trial.create_trial(
                params=inside,
                distributions={name: _distribution(by_name[name]) for name in inside},
                values=[figures[name] for name in self.space.objectives],
            )
        )
        if self.grid is not None and dict(inside) in self.grid:
            self.grid.remove(dict(inside))
        return True

    def drop_points(self, tried: Sequence[Mapping[str, Any]]) -> None:
        """Leave out the points of the space that have been tried."""
        self._waiting = deque(p for p in self._waiting if not any(p.items() <= dict(done).items() for done in tried))

    def put_first(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Try these first."""
        self._waiting.extendleft(dict(point) for point in reversed(points))


def chosen_search(space: Space) -> str:
    """The kind of search: as given in the space, or by its parameters. For a few numbers and one objective that
    varies smoothly with them a Gaussian process finds a narrow optimum in far fewer trials than the tree-structured
    estimator, which is used otherwise.
    """
    if space.search != "auto":
        return space.search
    numbers = all(p.kind in ("uniform", "loguniform") and not p.when for p in space.parameters)
    return "gp" if numbers and len(space.objectives) == 1 and space.of_experiment else "tpe"


def _sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if kind in ("random", "grid"):
        return optuna.samplers.RandomSampler(seed=seed)
    if kind == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True
    )


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.values)
    if parameter.kind == "integer":
        return IntDistribution(*parameter.values)
    low, high = parameter.values
    return FloatDistribution(float(low), float(high), log=parameter.kind == "loguniform")


def _suggested(trial: Any, parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return trial.suggest_categorical(parameter.name, parameter.values)
    low, high = parameter.values
    if parameter.kind == "integer":
        return trial.suggest_int(parameter.name, low, high)
    return trial.suggest_float(parameter.name, float(low), float(high), log=parameter.kind == "loguniform")
