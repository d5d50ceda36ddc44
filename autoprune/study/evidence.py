"""How far training-free proxies were right: what they said of architectures, beside what the trials then reached.

A proxy is worth its name only where it ranks the architectures of a task better than the number of their parameters
does, which costs nothing. Of each architecture the best result counts, at the highest rung that enough of them have
reached: pruning and bits differ among trials, and the best of them is what the architecture can carry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.constraint import Objective, is_cost

if TYPE_CHECKING:
    from autoprune.study.study import Study

PARAMS = "params"
LEAST_ARCHITECTURES = 8  # with a result at one rung, before anything is claimed

Scores = Mapping[str, float]


def evidence_of(study: Study) -> dict[str, Any]:
    """What is known of the proxies that a study asked, as plain data; empty where it asked none.

    Returns:
        `architectures` (so many were compared), `correlations` (proxy, and `params` -> Spearman's rank correlation with
        the first metric that is no cost; empty before there are enough), and `used`: what the sampler goes by.
    """
    asked = study.spec.search.proxy
    if asked is None:
        return {}
    scored, quality = _compared(study)
    enough = len(scored) >= LEAST_ARCHITECTURES
    found = rank_correlations(scored, quality) if enough else {}
    if enough:
        better = worthwhile(found)
        used = better[:1] if asked == "auto" else [name for name in better if name == asked]
    else:
        used = [] if asked == "auto" else [asked]
    return {"architectures": len(scored), "correlations": found, "used": used}


def rank_correlations(scored: Sequence[Scores], quality: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation of each proxy with the quality of trained networks; NaN where a score is missing.

    Args:
        scored: what each proxy says of each network, the same proxies for all.
        quality: of each network, larger is better.
    """
    from scipy.stats import spearmanr

    columns = {name: [row[name] for row in scored] for name in scored[0]}
    return {
        name: float(spearmanr(column, quality).statistic)
        if all(map(math.isfinite, column)) and len(set(column)) > 1 and len(set(quality)) > 1
        else math.nan
        for name, column in columns.items()
    }


def worthwhile(correlations: Mapping[str, float]) -> list[str]:
    """The proxies that rank better than the parameter count does, best first."""
    baseline = correlations[PARAMS]
    floor = -math.inf if math.isnan(baseline) else baseline
    better = [name for name, found in correlations.items() if name != PARAMS and found > max(floor, 0.0)]
    return sorted(better, key=lambda name: -correlations[name])


def _compared(study: Study) -> tuple[list[Scores], list[float]]:
    """Scores and the best result of each architecture, at the highest rung with enough of them."""
    objective = _quality(study)
    compared: list[dict[str, tuple[Scores, float]]] = [{} for _ in study.spec.rung_epochs]
    for trial in study.trials if objective is not None else ():
        first = trial.evaluations.get(0)
        if first is None or not first.scores or objective is None:
            continue
        key = json.dumps(first.structure.get("architecture", {}), sort_keys=True)
        for rung, evaluation in trial.evaluations.items():
            if rung < len(compared) and evaluation.state == "finished":
                value = -objective.loss(evaluation.metrics[objective.metric])
                _, before = compared[rung].get(key, (first.scores, -math.inf))
                compared[rung][key] = first.scores, max(value, before)
    enough = [one for one in compared if len(one) >= LEAST_ARCHITECTURES]
    chosen = enough[-1] if enough else max(compared, key=len)
    return [scores for scores, _ in chosen.values()], [value for _, value in chosen.values()]


def _quality(study: Study) -> Objective | None:
    """The first metric that is no cost, among the objectives or else among the constraints."""
    for objective in study.spec.objectives:
        if not is_cost(objective.metric):
            return objective
    for constraint in study.spec.constraints:
        if not is_cost(constraint.metric):
            return Objective(constraint.metric, "minimize" if constraint.operator == "<=" else "maximize")
    return None
