"""Rung -1: architectures are scored before a trial of them is trained, and the sampler learns what a score is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from inline_workers import search_spec
from optuna.distributions import CategoricalDistribution

from autoprune.search.foretold import Foretold, architectures, score_architectures
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.guided import GuidedSampler
from autoprune.space import Options, Space
from autoprune.spec import Spec

WIDTHS, DEPTHS = (8, 16, 32, 64), (1, 2, 3)
SPACE = Space(
    {
        "architecture.width": Options(WIDTHS, 64),
        "quantize.conv.weight_bits": Options((4, 8), 8),
        "architecture.depth": Options(DEPTHS, 3),
    }
)


class Scoring:
    """Says that a network is as good as it is deep."""

    size = 2

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        assert method == "foresee" and all(call[0] == "scores" for call in calls)
        return [None if one["width"] == 64 else {"synflow": float(one["depth"])} for _, one in calls]


def asking(proxy: str) -> Spec:
    return search_spec(space={"architecture": "default"}, search={"proxy": proxy})


def scored(spec: Spec, macs: float = 1e6) -> list[Any]:
    return score_architectures(Scoring(), spec, {"choices": SPACE.to_json(), "baseline": {"macs": macs}})


def foretold(used: Sequence[str] = ("synflow",)) -> Foretold:
    return Foretold(SPACE, scored(asking("synflow")), lambda: used)


def test_few_architectures_are_scored_all_and_many_in_part() -> None:
    assert len(architectures(SPACE, 12, seed=0)) == 12
    drawn = architectures(SPACE, 9, seed=0)
    assert len(drawn) == 9 and all(one not in drawn[:i] for i, one in enumerate(drawn))
    assert drawn == architectures(SPACE, 9, seed=0) != architectures(SPACE, 9, seed=1)


def test_only_who_asks_for_a_proxy_has_architectures_scored() -> None:
    assert scored(search_spec()) == []
    assert len(scored(asking("auto"))) == 9  # three of twelve make no network
    assert scored(asking("auto"), macs=1e12) == []  # would take hours


def test_points_are_ranked_as_their_architectures_were() -> None:
    encoding = Encoding(SPACE.distributions())
    points = [
        {"architecture.width": width, "architecture.depth": depth, "quantize.conv.weight_bits": bits}
        for depth in DEPTHS
        for width in WIDTHS[:3]
        for bits in (4, 8)
    ]
    rows = np.array([encoding.row(point) for point in points])
    (column,) = foretold().figures(["synflow"], encoding.names, rows).T
    assert column[:6].max() < column[6:12].min() and column[6:12].max() < column[12:].min()


def test_what_told_no_architectures_apart_is_not_gone_by() -> None:
    assert foretold().used() == ("synflow",)
    assert foretold(()).used() == ()
    assert foretold(("snip",)).used() == ()


@pytest.mark.parametrize("is_used", [True, False])
def test_a_sampler_proposes_with_a_proxy_and_after_it_was_switched_off(is_used: bool) -> None:
    used = ["synflow"]
    proxies = Foretold(SPACE, scored(asking("synflow")), lambda: used)
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=GuidedSampler(seed=0, startup=5, proxies=proxies)
    )
    space: dict[str, CategoricalDistribution] = SPACE.distributions()  # type: ignore[assignment]
    seen = []
    for number in range(12):
        if number == 8 and not is_used:
            used.clear()
        trial = study.ask(dict(space))
        depth, width = trial.params["architecture.depth"], trial.params["architecture.width"]
        seen.append(tuple(trial.params.values()))
        study.tell(trial, [float(depth), float(width * depth)])
    assert len(set(seen)) == 12
