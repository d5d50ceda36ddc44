"""Workers without a cluster: requests are answered in this process, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from autoprune.record import INHERITED, Evaluation, Request
from autoprune.space import Options, Range, Space
from autoprune.spec import Spec, load_spec

BASELINE = {"accuracy": 90.0, "latency_ms": 2.0, "size_bytes": 1000.0}
SPACE = Space(
    {
        "architecture.depth": Options((1, 2, 3), 3),
        **{f"prune.{name}.ratio": Range(0.0, 0.75, 0.0) for name in "abcd"},
        **{f"quantize.{name}.weight_bits": Options((4, 8, 32), 32) for name in "abcd"},
    }
)


def search_spec(**changes: object) -> Spec:
    """A spec of 20 trials with three rungs."""
    fields: dict[str, object] = {
        "name": "tried",
        "task": "digits",
        "constraints": ["size_bytes <= 80%", "accuracy >= baseline - 8"],
        "budget": {"trials": 20},
        "search": {"rungs": [0, 1, 3], "sampler": "evolution"},
    }
    for name, value in changes.items():
        before = fields.get(name)
        fields[name] = (
            {**before, **value} if isinstance(before, dict) and isinstance(value, Mapping) else value
        )
    return load_spec(fields)


def landscape(request: Request) -> Evaluation:
    """Figures as of a network that loses accuracy with pruning and wins some back by training."""
    choices = request.choices
    ratios = [float(choices[f"prune.{name}.ratio"]) for name in "abcd"]
    bits = [float(choices[f"quantize.{name}.weight_bits"]) for name in "abcd"]
    depth = float(choices["architecture.depth"])
    keep = 1.0 - sum(ratios) / 4
    damage = 30 * sum(r * r for r in ratios) / 4 + 2 * bits.count(4.0) + 4 * (3 - depth)
    size = 1000.0 * keep * depth / 3 * sum(bits) / 128
    metrics = {"size_bytes": size}
    seconds = {"total": 0.5 + request.rung}
    if size > 800.0:
        return Evaluation(
            request.trial, request.rung, "rejected", choices, metrics, dict(choices), seconds=seconds
        )
    metrics |= {
        "accuracy": 90.0 - damage / (1 + request.rung),
        "latency_ms": 2.0 * keep * depth / 3,
    }
    checkpoint = f"trial {request.trial} rung {request.rung}".encode()
    origin = {} if request.donor is None else {INHERITED: request.donor.trial}
    return Evaluation(
        request.trial,
        request.rung,
        "finished",
        choices,
        metrics,
        dict(choices),
        origin,
        seconds=seconds,
        checkpoint=checkpoint,
    )


class InlineWorkers:
    """Answers in the order of asking.

    Args:
        evaluate: what a worker does.
        size: requests that may wait at a time.
        stop_after: raise KeyboardInterrupt in place of the answer after so many.
    """

    def __init__(
        self,
        evaluate: Callable[[Request], Evaluation] = landscape,
        size: int = 1,
        stop_after: int | None = None,
    ) -> None:
        self.evaluate, self.size, self.stop_after = evaluate, size, stop_after
        self.waiting: deque[Request] = deque()
        self.seen: list[Request] = []

    def room(self, rung: int) -> int:
        return self.size - len(self.waiting)

    @property
    def running(self) -> int:
        return len(self.waiting)

    def workers(self) -> list[dict[str, object]]:
        states = ["busy"] * len(self.waiting) + ["idle"] * (self.size - len(self.waiting))
        return [{"shape": "worker", "state": state} for state in states]

    def submit(self, request: Request) -> None:
        assert self.room(request.rung) > 0
        self.waiting.append(request)

    def wait(self, timeout: float | None = None) -> list[tuple[Request, Evaluation]]:
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        request = self.waiting.popleft()
        self.seen.append(request)
        return [(request, self.evaluate(request))]
