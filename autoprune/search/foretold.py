"""Rung -1: what training-free proxies say of architectures, before a trial of them is trained.

Workers score architectures freshly made (`foresight.scores`): all of the space where there are few, some of it
otherwise, between which a Gaussian process fills in. Nothing is thrown out by a score. A proxy is one more figure of
each point for the guided sampler, which proposes the best of some hundreds of points for each that is trained, and
learns from the trials what the figure is worth. Where the trials say that it ranks no better than the number of
parameters does, it is taken away again (`study.evidence`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.search.answers import Asked
from autoprune.search.samplers.encoding import Encoding, Floats
from autoprune.search.samplers.surrogate import Surrogate
from autoprune.space import ARCHITECTURE, Options, Space, Value
from autoprune.spec import Spec

MOST_SCORED, LEAST_SCORED = 64, 8
SECONDS = 30.0  # that scoring should take at most, by arithmetic
PASSES, MACS_PER_SECOND, OVERHEAD = 400, 15e9, 0.05  # examples through the network, forward and back

Scored = Sequence[tuple[Mapping[str, Value], Mapping[str, float]]]


def score_architectures(workers: Asked, spec: Spec, made: Mapping[str, Any]) -> list[Any]:
    """Architectures of the space and what the proxies say of each, as plain data; none where none are asked.

    Args:
        workers: they hold an evaluator each.
        spec: says whether proxies are wanted (`search.proxy`).
        made: the profile so far: `choices`, `baseline`.
    """
    if spec.search.proxy is None:
        return []
    each = OVERHEAD + PASSES * float(made["baseline"].get("macs", 0.0)) / MACS_PER_SECOND
    count = min(MOST_SCORED, int(SECONDS * workers.size / each))
    wanted = architectures(Space.from_json(made["choices"]), count, spec.seed)
    if len(wanted) < LEAST_SCORED:
        return []
    answers = workers.map("foresee", [("scores", one) for one in wanted])
    return [[one, answer] for one, answer in zip(wanted, answers, strict=True) if answer is not None]


def architectures(space: Space, count: int, seed: int) -> list[dict[str, Value]]:
    """All architectures of a space, by argument, or so many different ones drawn from it."""
    options = {
        name.removeprefix(ARCHITECTURE): choice.values
        for name, choice in space.items()
        if name.startswith(ARCHITECTURE) and isinstance(choice, Options)
    }
    if math.prod(len(values) for values in options.values()) <= count:
        return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    generator, found = np.random.default_rng(seed), list[dict[str, Value]]()
    while len(found) < count:
        drawn = {name: values[int(generator.integers(len(values)))] for name, values in options.items()}
        if drawn not in found:
            found.append(drawn)
    return found


class Foretold:
    """What proxies say of any point.

    Args:
        space: of the search.
        scored: architectures and what was said of them.
        used: the proxies that are believed at present; asked before each proposal.
    """

    def __init__(self, space: Space, scored: Scored, used: Callable[[], Sequence[str]]) -> None:
        distributions = {n: d for n, d in space.distributions().items() if n.startswith(ARCHITECTURE)}
        self._encoding = Encoding({name: d for name, d in distributions.items() if not d.single()})
        self._scored, self._used = scored, used
        self._fits: dict[str, Surrogate] = {}

    def used(self) -> tuple[str, ...]:
        """The proxies to go by now, of those that told the scored architectures apart."""
        return tuple(name for name in self._used() if len(self._scored) >= LEAST_SCORED and self._told(name))

    def figures(self, proxies: Sequence[str], names: Sequence[str], rows: Floats) -> Floats:
        """Scores of points as normal quantiles, (N, proxies).

        Args:
            proxies: some of `used`.
            names: of all choices, those of the architecture among them.
            rows: (N, choices), points as an `Encoding` of the whole space has them.
        """
        own = rows[:, [names.index(name) for name in self._encoding.names]]
        features, nothing = self._encoding.features(own), np.zeros((len(rows), 0))
        return np.column_stack([self._fit(name).predict(features, nothing)[0] for name in proxies])

    def _told(self, proxy: str) -> bool:
        values = {scores.get(proxy, math.nan) for _, scores in self._scored}
        return len(values) > 1 and not any(map(math.isnan, values))

    def _fit(self, proxy: str) -> Surrogate:
        """The scores of one proxy, learned once."""
        if proxy not in self._fits:
            from scipy.stats import norm, rankdata

            points = [
                {f"{ARCHITECTURE}{name}": value for name, value in one.items()} for one, _ in self._scored
            ]
            features = self._encoding.features(np.array([self._encoding.row(point) for point in points]))
            ranks = rankdata([scores[proxy] for _, scores in self._scored])
            values = norm.ppf(ranks / (len(ranks) + 1))
            fit = Surrogate(self._encoding.blocks, 0)
            nothing = np.zeros((len(points), 0))
            fit.tune(features, nothing, values)
            fit.fit(features, nothing, values)
            self._fits[proxy] = fit
        return self._fits[proxy]
