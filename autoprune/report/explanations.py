"""Why a search came out as it did: which choices mattered, which constraints bind, what the next step would cost.

Pure functions of a study, to plain data; whoever shows them has sentences and figures alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.constraint import Constraint, Objective, is_cost, is_measured
from autoprune.errors import SearchFailed
from autoprune.report.readable import figure, limit
from autoprune.space import Value
from autoprune.study import Study, Trial
from autoprune.study.evidence import LEAST_ARCHITECTURES, PARAMS, evidence_of
from autoprune.study.ranking import front_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 10  # from which something can be said of choices
ENOUGH_TRIALS = 30  # for a rung to be looked at rather than the one below
MOST_TRIALS = 1000  # that are looked at; more are thinned out evenly
MOST_CHOICES = 10  # that are listed for each objective
LEAST_SHARE = 0.01  # of the whole, for a choice to be listed
TREES = 32
TOLD_CHOICES = 3
ACTIVE = 0.02  # of its limit: a constraint so near to it is active
ACTIVE_SPREAD = 0.25  # but no more than so much of what the metric varies along the front
NOISE = 0.01  # two measurements of one network differ by so much, relative: less is no step
KILO = {"size_bytes": ("KB", 1e3), "latency_ms": ("ms", 1.0), "params": ("k", 1e3), "macs": ("M", 1e6)}

Row = dict[str, Any]
Figures = Sequence[tuple[Mapping[str, Value], Mapping[str, float]]]


def explain(study: Study) -> dict[str, Any]:
    """What can be said about a study, as plain data.

    Returns:
        `importance`: `rung`, `trials` (looked at), `of` (there are), and `objectives`: metric -> [`choice`, `share`];
        `constraints`: for each `constraint` the share of trials that break it (`ruled_out`) and that break no other one
        (`alone`), and where it is active (`active_at`); `slopes`: for each `cost` the steps between neighbours of the
        front (`along`), and from the chosen trial (`trial`) to one that costs `more` and one that costs `less`;
        `proxies`, where the spec asks for one: see `study.evidence`; `sentences`: the same in words.
    """
    chosen = chosen_of(study)
    importance = importance_of(study)
    binding = binding_constraints(study, chosen)
    slopes = slopes_of(study, chosen)
    sentences = [*_of_importance(importance), *_of_constraints(binding), *_of_slopes(slopes, study)]
    proxies = evidence_of(study)
    sentences += _of_proxies(proxies)
    found = {"importance": importance, "constraints": binding, "slopes": slopes, "sentences": sentences}
    return {**found, "proxies": proxies} if proxies else found


def chosen_of(study: Study) -> Trial | None:
    """The best compromise that meets the constraints, None while there is none."""
    try:
        return study.best()
    except SearchFailed:
        return None


# -- which choices mattered ------------------------------------------------------------------------------------------


def importance_of(study: Study) -> Row:
    """How much of each objective's variation each choice explains: its share in the splits of a forest of trees.

    Optuna's mean decrease of impurity: at 1,000 trials of 60 mixed choices it takes a second for an objective and
    agrees with fANOVA, which takes ten times as long; PED-ANOVA is faster yet, but hardly sees choices among options.
    Figures of different rungs are not compared: the highest rung with enough trials is looked at.
    """
    rung, figures = _comparable(study)
    names = [name for name in study.space if len({choices[name] for choices, _ in figures}) > 1]
    found: Row = {"rung": rung, "trials": 0, "of": len(figures), "objectives": {}}
    if len(figures) < LEAST_TRIALS or not names:
        return found
    places = np.unique(np.linspace(0, len(figures) - 1, MOST_TRIALS).round().astype(int))
    looked_at = [figures[place] for place in places]
    found["trials"] = len(looked_at)
    varied = [
        objective.metric
        for objective in study.spec.objectives
        if np.ptp([metrics[objective.metric] for _, metrics in looked_at]) > 0
    ]
    found["objectives"] = _shares(study, names, varied, looked_at) if varied else {}
    return found


def _comparable(study: Study) -> tuple[int, Figures]:
    """A rung, and choices and metrics of the trials there: the highest with enough of them, or that with the most."""
    reached: list[list[tuple[Mapping[str, Value], Mapping[str, float]]]] = [
        [
            (trial.choices, trial.evaluations[rung].metrics)
            for trial in study.trials
            if rung in trial.evaluations and trial.evaluations[rung].state == "finished"
        ]
        for rung in range(len(study.spec.rung_epochs))
    ]
    enough = [rung for rung, rows in enumerate(reached) if len(rows) >= ENOUGH_TRIALS]
    rung = max(enough) if enough else max(range(len(reached)), key=lambda r: len(reached[r]))
    return rung, reached[rung]


def _shares(
    study: Study, names: Sequence[str], metrics: Sequence[str], figures: Figures
) -> dict[str, list[Row]]:
    """For each metric the choices that explain most of it, first the one that explains most."""
    import optuna
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

    from autoprune.study.journal import quiet

    distributions = {name: d for name, d in study.space.distributions().items() if name in names}
    # As ranks: one broken network, or a metric of 1e-9, splits no tree differently.
    ranks = [_ranks([found[metric] for _, found in figures]) for metric in metrics]
    found = {}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = optuna.create_study(directions=["minimize"] * len(metrics))
        for (choices, _), values in zip(figures, zip(*ranks, strict=True), strict=True):
            params = {name: choices[name] for name in names}
            made.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, values=list(values))
            )
        for place, metric in enumerate(metrics):
            shares = get_param_importances(
                made,
                evaluator=MeanDecreaseImpurityImportanceEvaluator(n_trees=TREES, seed=0),
                target=partial(_value, place),
            )
            told = [(name, float(share)) for name, share in shares.items() if share >= LEAST_SHARE]
            found[metric] = [{"choice": name, "share": share} for name, share in told[:MOST_CHOICES]]
    return found


def _value(place: int, trial: FrozenTrial) -> float:
    return float(trial.values[place])


def _ranks(values: Sequence[float]) -> list[float]:
    return [float(rank) for rank in np.unique(values, return_inverse=True)[1] / len(values)]


def _of_importance(found: Row) -> list[str]:
    if not found["trials"]:
        few = f"{found['of']} trials of one rung are too few, or too much alike, to tell which choices mattered."
        return [few] if found["of"] else []
    of = f"{found['of']} " if found["trials"] == found["of"] else f"{found['trials']} of {found['of']} "
    sentences = []
    for metric, shares in found["objectives"].items():
        told = [f"{row['choice']} ({row['share']:.0%})" for row in shares[:TOLD_CHOICES]]
        sentences += [f"{metric} depended most on {', '.join(told)}."] if told else []
    return [f"Over {of}trials at rung {found['rung']}: {' '.join(sentences)}"] if sentences else []


# -- which constraints bind ------------------------------------------------------------------------------------------


def binding_constraints(study: Study, chosen: Trial | None) -> list[Row]:
    """For each constraint, the share of the trials that it rules out, that it alone does, and where it is active.

    Of a trial that was rejected before training only the costs that were computed are known; it counts against those.
    """
    base = study.baseline
    broken = [
        [
            c
            for c in study.spec.constraints
            if c.metric in trial.metrics and c.violation(trial.metrics, base) > 0
        ]
        for trial in study.trials
        if trial.has_result or trial.state == "rejected"
    ]
    return [
        {
            "constraint": limit(constraint, base),
            "ruled_out": sum(constraint in one for one in broken) / len(broken),
            "alone": sum(one == [constraint] for one in broken) / len(broken),
            "active_at": [
                where for where, trial in _telling(study, chosen) if _is_active(study, constraint, trial)
            ],
        }
        for constraint in (study.spec.constraints if broken else ())
    ]


def _telling(study: Study, chosen: Trial | None) -> list[tuple[str, Trial]]:
    """The chosen trial, and the ends of the front: the best in each objective."""
    found = [] if chosen is None else [(f"the chosen trial {chosen.number}", chosen)]
    for objective in study.spec.objectives if study.front else ():
        (best,) = front_of(study.front, [objective])
        found.append((f"the front's best {objective.metric} (trial {best.number})", best))
    return found


def _is_active(study: Study, constraint: Constraint, trial: Trial) -> bool:
    """Whether a trial is so near to a limit that it would look for more beyond it."""
    if constraint.metric not in trial.metrics:
        return False
    bound = constraint.limit(study.baseline)
    slack = abs(bound - trial.metrics[constraint.metric])
    values = [one.metrics[constraint.metric] for one in study.front if constraint.metric in one.metrics]
    spread = float(np.ptp(values)) if values else 0.0
    # Of an accuracy of 97 % two percent are more than anybody gives away: what the front spans counts as well.
    return slack <= min(ACTIVE * (abs(bound) or 1.0), ACTIVE_SPREAD * spread if spread > 0 else np.inf)


def _of_constraints(rows: Sequence[Row]) -> list[str]:
    sentences = []
    for row in rows:
        if row["ruled_out"] or row["active_at"]:
            alone = f", {row['alone']:.0%} by it alone" if row["ruled_out"] else ""
            active = f"; it is active at {' and '.join(row['active_at'])}" if row["active_at"] else ""
            sentences.append(
                f"{row['constraint']} ruled out {row['ruled_out']:.0%} of the trials{alone}{active}."
            )
    idle = [row["constraint"] for row in rows if not row["ruled_out"] and not row["active_at"]]
    return [*sentences, f"{', '.join(idle)} ruled out no trial."] if idle else sentences


# -- what was said before training -----------------------------------------------------------------------------------


def _of_proxies(found: Mapping[str, Any]) -> list[str]:
    """How training-free proxies ranked what was tried, and what came of it."""
    if not found:
        return []
    count, used = found["architectures"], " and ".join(found["used"])
    if not found["correlations"]:
        now = f"the search goes by {used} meanwhile" if used else "the search does not go by them yet"
        return [
            f"Of {count} architectures there is a result; proxies are judged from {LEAST_ARCHITECTURES} on, {now}."
        ]
    ranked = sorted(found["correlations"].items(), key=lambda pair: -np.nan_to_num(pair[1], nan=-1.0))
    listed = ", ".join(f"{'the parameter count' if n == PARAMS else n} {value:.2f}" for n, value in ranked)
    verdict = (
        f"the search goes by {used}" if used else "none is used, for that it has to beat the parameter count"
    )
    return [f"Rank correlation with the best result of {count} architectures: {listed}; {verdict}."]


# -- what one more of a cost would buy -------------------------------------------------------------------------------


def slopes_of(study: Study, chosen: Trial | None) -> list[Row]:
    """For each cost, what more of it buys: differences between neighbours on the front of that cost and the quality.

    Of trials whose measured costs nothing tells apart (`NOISE`) the best stands for all.

    The quality is the first objective that is no cost. Costs are the other objectives that are minimized, and what is
    limited from above.
    """
    quality = next((o for o in study.spec.objectives if not is_cost(o.metric)), None)
    if quality is None:
        return []
    costs = [o.metric for o in study.spec.objectives if o is not quality and o.direction == "minimize"]
    costs += [c.metric for c in study.spec.constraints if is_cost(c.metric) and c.operator == "<="]
    return [_slope(study, quality, Objective(cost, "minimize"), chosen) for cost in dict.fromkeys(costs)]


def _slope(study: Study, quality: Objective, cost: Objective, chosen: Trial | None) -> Row:
    feasible = [trial for trial in study.trials if trial.is_feasible]
    apart = 1 + NOISE if is_measured(cost.metric) else 1.0
    front = _told_apart(front_of(feasible, [quality, cost])[::-1], cost, apart)
    found: Row = {"cost": cost.metric, "quality": quality.metric, "trial": None, "more": None, "less": None}
    found["along"] = [_step(quality, cost, one, other) for one, other in pairwise(front)]
    if chosen is None or cost.metric not in chosen.metrics:
        return found
    found["trial"] = chosen.number
    at, level = chosen.metrics[cost.metric], quality.loss(chosen.metrics[quality.metric])
    dearer = [
        t
        for t in front
        if t.metrics[cost.metric] > at * apart and quality.loss(t.metrics[quality.metric]) < level
    ]
    cheaper = [t for t in front if t.metrics[cost.metric] * apart < at]
    found["more"] = _step(quality, cost, chosen, dearer[0]) if dearer else None
    found["less"] = _step(quality, cost, chosen, cheaper[-1]) if cheaper else None
    return found


def _told_apart(front: Sequence[Trial], cost: Objective, apart: float) -> list[Trial]:
    """A front from the cheapest to the best: of trials whose costs differ by less than this factor the best."""
    kept, since = list[Trial](), -np.inf
    for trial in front:
        if trial.metrics[cost.metric] >= since * apart:
            since = trial.metrics[cost.metric]
            kept.append(trial)
        else:
            kept[-1] = trial
    return kept


def _step(quality: Objective, cost: Objective, one: Trial, other: Trial) -> Row:
    """From one trial to another: what it costs more, what it gains, and the gain by unit of the cost."""
    more = other.metrics[cost.metric] - one.metrics[cost.metric]
    gain = quality.loss(one.metrics[quality.metric]) - quality.loss(other.metrics[quality.metric])
    return {
        "from": one.number,
        "to": other.number,
        "cost": float(more),
        "gain": float(gain),
        "per_unit": float(gain / more) if more else None,
    }


def _of_slopes(slopes: Sequence[Row], study: Study) -> list[str]:
    directions = {o.metric: o.direction for o in study.spec.objectives}
    sentences = []
    for slope in slopes:
        said = [step_in_words(slope, directions[slope["quality"]], slope[side]) for side in ("more", "less")]
        if any(said):
            sentences.append(f"From trial {slope['trial']}, {' and '.join(filter(None, said))}.")
    return sentences


def step_in_words(slope: Row, direction: str, step: Row | None) -> str:
    """`0.1 ms more buys 0.4 points of accuracy (trial 12)`; empty where there is no step."""
    if step is None:
        return ""
    metric, cost = slope["quality"], figure(slope["cost"], abs(step["cost"]))
    cost = cost if " " in cost else f"{cost} {slope['cost']}"
    gain, sign = abs(step["gain"]), np.sign(step["gain"])
    amount = f"{gain_in_words(metric, gain)} of {metric}"
    if metric != "accuracy" and direction == "minimize":
        amount = f"{gain:.3g} {'less' if sign > 0 else 'more'} {metric}"
    if step["cost"] > 0:
        return f"{cost} more buys {amount} (trial {step['to']})"
    if sign >= 0:
        return f"{cost} less costs no {metric} (trial {step['to']})"
    return f"{cost} less costs {amount} (trial {step['to']})"


def gain_in_words(metric: str, gain: float) -> str:
    """`0.4 points` of an accuracy, the bare number of anything else."""
    if metric != "accuracy":
        return f"{gain:.3g}"
    number = f"{gain:.2g}"
    return f"{number} {'point' if number == '1' else 'points'}"


def rate_in_words(slope: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    """A step's gain by a unit that a person thinks in: `4.2 points per ms`, `0.013 per KB`."""
    if step["per_unit"] is None:
        return "–"
    unit, size = KILO.get(slope["cost"], ("unit", 1.0))
    points = " points" if slope["quality"] == "accuracy" else ""
    return f"{step['per_unit'] * size:.3g}{points} per {unit}"
