"""Where a study stands, as the plain data that `autoprune status --json` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autoprune.study.evidence import evidence_of
from autoprune.study.ranking import best_of, confirmed

if TYPE_CHECKING:
    from autoprune.study.study import Study


def standing(study: Study) -> dict[str, Any]:
    """Progress, best, front, what is spent, and while somebody searches what is seen of that.

    `trials.finished` counts every trial with a durable result, `trials.stopped` those of them that ended before the
    last rung. `best` is the best compromise on the front, None while there is none; its `deviations` are those over
    `seeds` re-validations. `revalidation` counts the trials with means, and the evaluations that are still to come.
    `rungs` counts evaluations by rung and state. `live` is None unless a driver is at work: `workers` by shape and
    state, `queue`, `utilisation` (the share of their time that workers were busy, since this driver began), and
    `seconds_left`, an estimate. `modelled` is there where a figure that is searched for is not measured: metric -> of
    how many trials, and how it was got. `proxies` is there where the spec asks for one (`evidence`).
    """
    state, front = study.state, study.front
    is_running = state == "running"
    sure = confirmed(front) or front
    best = best_of(sure, study.spec.objectives, [], study.baseline, None) if front else None
    states = Counter(trial.state for trial in study.trials)
    spent, budget, found = study.spent(), study.spec.budget, study.revalidation
    seen = study.live
    return ({} if found is None else {"revalidation": found}) | {
        "state": state,
        "trials": {
            "finished": int(spent["trials"]),
            "stopped": states["stopped"],
            "failed": states["failed"],
            "running": states["running"] if is_running else 0,
        },
        "rungs": _by_rung(study, is_running),
        "front_size": len(front),
        "hypervolume": study.hypervolume(),
        "best": None if best is None else best.summary(),
        "budget": {name: {"spent": spent[name], "limit": getattr(budget, name)} for name in spent},
        "spent": spent_by(study),
        **({"modelled": modelled} if (modelled := modelled_of(study)) else {}),
        **({"proxies": proxies} if (proxies := evidence_of(study)) else {}),
        "live": None if seen is None else {**_plain(seen), "seconds_left": seconds_left(study)},
    }


class Standing(Mapping[str, Any]):
    """The same, worked out when it is first looked at: a search has more events than anybody looks at."""

    def __init__(self, study: Study) -> None:
        self._study = study

    @cached_property
    def _found(self) -> dict[str, Any]:
        return standing(self._study)

    def __getitem__(self, name: str) -> Any:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _by_rung(study: Study, is_running: bool) -> dict[str, dict[str, int]]:
    """Evaluations of the search by rung (its index) and state."""
    counts: Counter[tuple[int, str]] = Counter()
    for trial in study.trials:
        counts.update((rung, one.state) for rung, one in trial.evaluations.items())
        if is_running and trial.pending is not None:
            counts[trial.pending, "running"] += 1
    kinds = ("finished", "rejected", "failed", "running")
    return {
        str(rung): {kind: counts[rung, kind] for kind in kinds}
        for rung in sorted({rung for rung, _ in counts})
    }


def modelled_of(study: Study) -> dict[str, dict[str, Any]]:
    """Metrics among objectives and constraints that are modelled: of how many `trials`, and the latest's `source`.

    What is computed, such as sizes, is neither modelled nor measured.
    """
    found: dict[str, dict[str, Any]] = {}
    named = {o.metric for o in study.spec.objectives} | {c.metric for c in study.spec.constraints}
    for trial in study.results:
        sources = trial.latest.measurement.get("sources", {}) if trial.latest is not None else {}
        for metric in named & sources.keys():
            source = str(sources[metric])
            if source.startswith("modelled"):
                before = found.setdefault(metric, {"trials": 0, "source": source})
                found[metric] = {"trials": before["trials"] + 1, "source": source}
    return found


def spent_by(study: Study) -> dict[str, dict[str, dict[str, float]]]:
    """Evaluations, device-seconds and money `by_rung` (its index) and `by_shape` of the workers (its name)."""
    rungs: dict[str, dict[str, float]] = {}
    shapes: dict[str, dict[str, float]] = {}
    for rung, (count, seconds, money) in study.spent_at.items():
        costs = {"evaluations": count, "device_seconds": seconds, "money": money}
        rungs[str(rung)] = dict(costs)
        shape = shapes.setdefault(study.spec.cluster.shape_at(rung), dict.fromkeys(costs, 0))
        for name, value in costs.items():
            shape[name] += value
    return {"by_rung": rungs, "by_shape": shapes}


def seconds_left(study: Study) -> float | None:
    """In how many seconds the first limit should be reached at the pace so far; None while there is no pace yet."""
    spent, passed = study.spent(), study.seconds
    left = [
        60 * (limit - spent[name]) if name == "minutes" else passed * (limit - spent[name]) / spent[name]
        for name, limit in study.spec.budget.limits.items()
        if spent[name] or name == "minutes"
    ]
    return max(0.0, min(left)) if left else None


def _plain(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What a driver left, of what is expected there; it may be a file of others."""
    workers = seen.get("workers")
    counts = {
        str(name)[:100]: {str(kind)[:100]: int(n) for kind, n in states.items() if isinstance(n, int)}
        for name, states in (workers.items() if isinstance(workers, dict) else ())
        if isinstance(states, dict)
    }
    queue, share = seen.get("queue"), seen.get("utilisation")
    return {
        "workers": counts,
        "queue": queue if isinstance(queue, int) else 0,
        "utilisation": float(share) if isinstance(share, int | float) else 0.0,
    }
