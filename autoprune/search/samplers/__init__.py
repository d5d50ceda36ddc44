"""Who proposes: every sampler is an `optuna.samplers.BaseSampler`, built in or anybody's."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, raised
from autoprune.references import resolve, wrong_arguments

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


REJECTED = "rejected"
"""System attribute of trials whose values were made up, since they break constraints that can be computed."""

BESIDE = "beside"
"""System attribute of trials that tell of another point, too: `point`, `values` and `violations`, None for unknown."""

COSTS = "costs"
"""User attribute of trials: what they turned out to cost, by name, for samplers that foresee it of others."""


def _tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimators over all choices together; proposals under way count as bad ones."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(multivariate=True, constant_liar=True, seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    """NSGA-II with a population of 20: searches here have hundreds of trials rather than thousands."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(population_size=20, seed=seed)


def _random(seed: int) -> BaseSampler:
    """Every point alike."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _evolution(seed: int) -> BaseSampler:
    """Steady-state evolution from the front; see `evolution`."""
    from autoprune.search.samplers.evolution import EvolutionSampler

    return EvolutionSampler(seed=seed)


def _guided(seed: int, known: Mapping[str, Any] | None = None) -> BaseSampler:
    """A model of every objective and constraint; see `guided`."""
    from autoprune.search.samplers.guided import GuidedSampler

    return GuidedSampler(seed=seed, **(known or {}))


def _nni(tuner: str) -> Callable[[int], BaseSampler]:
    """One of NNI's tuners; see `nni_tuners`."""

    def make(seed: int) -> BaseSampler:
        from autoprune.search.samplers.nni_tuners import NniSampler

        return NniSampler(tuner, seed)

    return make


BUILT_IN = {
    "auto": _guided,
    "evolution": _evolution,
    "guided": _guided,
    "nni-evolution": _nni("evolution"),
    "nni-grid": _nni("grid"),
    "nni-random": _nni("random"),
    "nni-tpe": _nni("tpe"),
    "nsga2": _nsga2,
    "random": _random,
    "tpe": _tpe,
}


def make_sampler(
    sampler: str | BaseSampler,
    seed: int,
    folder: Path | None = None,
    known: Mapping[str, Any] | None = None,
) -> BaseSampler:
    """The sampler of a search.

    Args:
        sampler: a name in `BUILT_IN`, a reference to a sampler or its class, or a sampler.
        seed: for those built in, and for classes that take a `seed`.
        folder: what a file reference is relative to.
        known: `costs`, `prior`, `limits`, `errors`, `familiar` and `proxies` for the guided sampler; others have no
            use for them.

    Raises:
        UnresolvedReference: the reference leads nowhere.
        BadInput: it leads to something that is no sampler.
    """
    from optuna.samplers import BaseSampler

    if isinstance(sampler, str) and sampler in BUILT_IN:
        make = BUILT_IN[sampler]
        return _guided(seed, known) if make is _guided else make(seed)
    found: Any = sampler
    if isinstance(sampler, str):
        found = resolve(sampler, folder=folder, builtins=dict.fromkeys(BUILT_IN, ""))
    if isinstance(found, type) and issubclass(found, BaseSampler):
        if problem := wrong_arguments(found, {}):
            raise BadInput(f"search.sampler: {sampler} cannot be made without arguments: {problem}")
        takes_seed = "seed" in inspect.signature(found).parameters
        arguments: dict[str, Any] = {"seed": seed} if takes_seed else {}
        try:
            found = found(**arguments)
        except Exception as error:  # whatever a stranger's class raises
            raise BadInput(f"search.sampler: {sampler} {raised(error)}") from None
    if not isinstance(found, BaseSampler):
        raise BadInput(f"search.sampler: {sampler} is a {type(found).__name__}, not an optuna BaseSampler")
    return found
