"""Whether another evaluation may be dispatched: what is spent, what is under way, and what the next one will cost.

Everything is an estimate before it is a fact. An evaluation at a rung is expected to take the mean of those before
it. Before the first one it is what the profile foresees, which is of the uncompressed network, in the measure in which
candidates kept to that at the rung below. Device time and money of what is under way count as if they were spent; the
clock runs for all workers at once, so an evaluation only has to end before it does.
"""

from __future__ import annotations

import math
from collections import Counter

from autoprune.record import Request
from autoprune.study import Study

MOST_RESERVED = 0.5  # share of a budget that is kept for the re-validation at most
HOUR = 3600.0


class Budgets:
    """The limits of a search, held against what it has spent, has under way, and keeps for its end.

    Args:
        study: what is spent is read from it.

    Attributes:
        reason: why nothing more may be dispatched, or no new trial be begun; empty while either may.
    """

    def __init__(self, study: Study) -> None:
        self.reason = ""
        self._study, self._spec = study, study.spec
        self._limits = study.spec.budget.limits
        self._last_rung = len(study.spec.rung_epochs) - 1
        self._took = [(0, 0.0)] * (self._last_rung + 1)  # how many evaluations, and their seconds
        self._under_way: Counter[int] = (
            Counter()
        )  # by rung; re-validations are under None's place, the last + 1
        self._foreseen = study.profile.get("seconds", {})

    # -- what happens ----------------------------------------------------------------------------------------

    def dispatched(self, request: Request) -> None:
        """A request goes out."""
        self._under_way[self._place(request.rung, request.repeat)] += 1

    def returned(self, request: Request) -> None:
        """It was answered."""
        self._under_way[self._place(request.rung, request.repeat)] -= 1

    def took(self, rung: int, seconds: float) -> None:
        """An evaluation at a rung finished after so long."""
        if rung <= self._last_rung:
            count, total = self._took[rung]
            self._took[rung] = count + 1, total + seconds

    def _place(self, rung: int, repeat: int) -> int:
        return self._last_rung + 1 if repeat else min(rung, self._last_rung)

    # -- what may be done ------------------------------------------------------------------------------------

    def are_spent(self, workers: int) -> bool:
        """Whether nothing at all may be dispatched any more.

        Args:
            workers: how many there are; some of the budget is kept for the re-validation on them.
        """
        spent, kept = self._committed(), self._reserved(workers)
        for name, limit in self._limits.items():
            if name != "trials" and spent[name] >= limit - kept[name]:
                self.reason = f"the budget of {limit:g} {_words(name)} is spent"
                return True
        return False

    def allow_a_trial(self, workers: int) -> bool:
        """Whether a new trial may be begun; those with a result count, and those that may yet have one."""
        limit = self._limits.get("trials")
        if limit is not None and self._study.spent()["trials"] + self._under_way[0] >= limit:
            self.reason = f"the budget of {limit:g} trials is spent"
            return False
        return self.allow(0, workers, self._spec.budget.soft)

    def allow(self, rung: int, workers: int, share: float = 1.0) -> bool:
        """Whether an evaluation at a rung is likely to end within this share of every limit."""
        spent, kept, cost = self._committed(), self._reserved(workers), self._cost(rung)
        for name, limit in self._limits.items():
            if name != "trials" and spent[name] + cost[name] > share * limit - kept[name]:
                self.reason = f"the {_words(name)} that are left are too few for another {_kind(rung)}"
                return False
        return True

    def allow_a_repeat(self, begun: int) -> bool:
        """Whether another re-validation is likely to end within the budget.

        Args:
            begun: those that are about to be dispatched, or under way.
        """
        spent, cost = self._study.spent(), self._repeat_cost()
        counts = {name: 1 if name == "minutes" else 1 + begun for name in cost}
        return all(
            spent[name] + counts[name] * cost[name] <= limit
            for name, limit in self._limits.items()
            if name != "trials"
        )

    def expected(self, rung: int) -> float:
        """Seconds that an evaluation at a rung takes: the mean so far, before the first one by the profile."""
        rung = min(rung, self._last_rung)
        if (seen := self._mean(rung)) is not None:
            return seen
        foreseen = self._by_profile(rung)
        for below in range(rung - 1, -1, -1):
            taken, expected = self._mean(below), self._by_profile(below)
            if taken is not None and expected > 0 and self._stretch(below) > 0:
                return foreseen * taken / expected
        return foreseen

    def _mean(self, rung: int) -> float | None:
        """Seconds of the evaluations at a rung so far; None where there are none."""
        count, total = self._took[rung]
        return total / count if count else None

    def _by_profile(self, rung: int) -> float:
        """Seconds that the uncompressed network would take."""
        per_epoch = float(self._foreseen.get("per_epoch", 0.0))
        return float(self._foreseen.get("per_evaluation", 0.0)) + self._stretch(rung) * per_epoch

    def _stretch(self, rung: int) -> float:
        """Epochs between the rung below and this one."""
        epochs = (0.0, *self._spec.rung_epochs)
        return epochs[rung + 1] - epochs[rung]

    # -- what it costs ---------------------------------------------------------------------------------------

    def _committed(self) -> dict[str, float]:
        """What is spent, and with it the device time and money of what is under way."""
        spent = self._study.spent()
        for place, count in self._under_way.items():
            cost = self._repeat_cost() if place > self._last_rung else self._cost(place)
            for name in ("device_seconds", "device_hours", "money"):
                spent[name] += count * cost[name]
        return spent

    def _cost(self, rung: int) -> dict[str, float]:
        return _priced(self.expected(rung), self._spec.cluster.price_at(rung))

    def _repeat_cost(self) -> dict[str, float]:
        """Of a candidate that is trained through all rungs, where the last one is, and measured."""
        seconds = sum(self.expected(rung) for rung in range(self._last_rung + 1))
        return _priced(seconds, self._spec.cluster.price_at(self._last_rung))

    def _reserved(self, workers: int) -> dict[str, float]:
        """What is kept for the re-validation: at most half of each limit."""
        asked, each = self._spec.search.revalidate, self._repeat_cost()
        if asked is None:
            return dict.fromkeys(each, 0.0)
        count = asked.best * asked.seeds
        rounds = math.ceil(count / max(1, workers))
        return {
            name: min(
                (rounds if name == "minutes" else count) * cost,
                MOST_RESERVED * self._limits.get(name, math.inf),
            )
            for name, cost in each.items()
        }


def _priced(seconds: float, price: float) -> dict[str, float]:
    """What so long on one worker is, in each kind of budget."""
    hours = seconds / HOUR
    return {
        "minutes": seconds / 60,
        "device_seconds": seconds,
        "device_hours": hours,
        "money": hours * price,
    }


def _words(name: str) -> str:
    return name.replace("_", "-")


def _kind(rung: int) -> str:
    return "rung" if rung else "trial"
