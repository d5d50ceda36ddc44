"""What our own samplers share: the choices that they decide together, and random values for all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from optuna.study import Study


class OwnSampler(BaseSampler):
    """Give `sample_relative`.

    Args:
        seed: of every draw; None takes one from the system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._generator = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._search_space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Draw differently from a copy of this sampler in another process."""
        self._generator = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The choices that every trial so far had."""
        return {name: d for name, d in self._search_space.calculate(study).items() if not d.single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for the first trials and for choices that not all trials had."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
