"""Several targets in one search: a candidate runs on each, and every figure is there for each of them.

The first target says what the task's own metrics are, and gives the plain names (`latency_ms`). Each one's figures
are there as `latency_ms@name` as well. What all of them can run is legal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import autoprune.targets.target as contract
from autoprune.errors import TargetError
from autoprune.space import Choice, Choices, Value
from autoprune.targets.target import OWN_CHOICES, Measurement, Runnable, Target

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tensors import Inputs


class SeveralRunnables:
    """A candidate on each target.

    Attributes:
        parts: target name -> its runnable.
        files: those of the first; an artifact is written for each (see `export.trial`).
    """

    def __init__(self, parts: Mapping[str, Runnable]) -> None:
        self.parts = dict(parts)
        self._first = next(iter(self.parts.values()))
        self.files = self._first.files

    def run(self, inputs: Inputs) -> Any:
        """Outputs of the first."""
        return self._first.run(inputs)


class Several:
    """Targets by name, as one.

    Args:
        targets: at least one.

    Raises:
        TargetError: they have no bit width in common.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.targets = dict(targets)
        self.weight_bits = self._common("weight_bits")
        self.activation_bits = self._common("activation_bits")
        self.channel_multiple = math.lcm(*(getattr(one, "channel_multiple", 1) for one in targets.values()))
        self.fixed_point = any(getattr(one, "fixed_point", False) for one in targets.values())
        self.measures = tuple(
            metric
            for number, (name, one) in enumerate(targets.items())
            for plain in getattr(one, "measures", ())
            for metric in ((plain,) if number == 0 else ()) + (f"{plain}@{name}",)
        )

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why a target cannot run these choices, of the first that cannot."""
        reasons = ((name, one.supports(choices)) for name, one in self.targets.items())
        return next((f"{name}: {reason}" for name, reason in reasons if reason), None)

    def build(self, model: nn.Module, example: Inputs) -> SeveralRunnables:
        """The model on each."""
        return SeveralRunnables({name: one.build(model, example) for name, one in self.targets.items()})

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """The first's measurement, with the figures of all by `metric@target`."""
        if not isinstance(runnable, SeveralRunnables):
            raise TargetError(
                f"several targets measure what they built themselves, not {type(runnable).__name__}"
            )
        found = {name: one.measure(runnable.parts[name], example) for name, one in self.targets.items()}
        first = next(iter(found.values()))
        figures, sources = dict(first.figures), dict(first.sources)
        for name, one in found.items():
            figures |= {f"{metric}@{name}": value for metric, value in one.metrics.items()}
            sources |= {f"{metric}@{name}": source for metric, source in one.sources.items()}
        return Measurement(
            latency_ms=first.latency_ms,
            median_ms=first.median_ms,
            spread=max(one.spread for one in found.values()),
            reference_ms=first.reference_ms,
            rounds=first.rounds,
            load=first.load,
            unstable=any(one.unstable for one in found.values()),
            figures=figures,
            sources=sources,
        )

    def price(self, model: nn.Module, example: Inputs) -> dict[str, float]:
        """What each knows beforehand."""
        found: dict[str, float] = {}
        for number, (name, one) in enumerate(self.targets.items()):
            costs = contract.price(one, model, example)
            found |= costs if number == 0 else {}
            found |= {f"{metric}@{name}": value for metric, value in costs.items()}
        return found

    def choices(self, model: nn.Module, example: Inputs) -> dict[str, Choice]:
        """Those of each, with its name in front: `target.board.conv1.reuse`."""
        return {
            f"{OWN_CHOICES}{name}.{choice.removeprefix(OWN_CHOICES)}": found
            for name, one in self.targets.items()
            for choice, found in contract.own_choices(one, model, example).items()
        }

    def designs(self, model: nn.Module, example: Inputs) -> list[dict[str, Value]]:
        """Those of each, under the names that its choices have here."""
        return [
            {
                f"{OWN_CHOICES}{name}.{choice.removeprefix(OWN_CHOICES)}": value
                for choice, value in made.items()
            }
            for name, one in self.targets.items()
            for made in contract.designs(one, model, example)
        ]

    def configured(self, choices: Choices) -> Several:
        """Each as its own choices set it."""
        return Several(
            {
                name: contract.configured(one, _Renamed(choices, f"{OWN_CHOICES}{name}."))
                for name, one in self.targets.items()
            }
        )

    def problems(self, model: nn.Module, example: Inputs) -> list[str]:
        """What any of them cannot run, with its name."""
        return [
            f"{name}: {line}"
            for name, one in self.targets.items()
            for line in contract.problems_of(one, model, example)
        ]

    def machine_key(self) -> str:
        """What the measurements of all depend on."""
        return "-".join(getattr(one, "machine_key", lambda: "")() for one in self.targets.values())

    def _common(self, kind: str) -> tuple[int, ...]:
        first, *others = self.targets.values()
        common = tuple(bits for bits in getattr(first, kind) if all(bits in getattr(o, kind) for o in others))
        if not common:
            listed = "; ".join(
                f"{name} takes {', '.join(map(str, getattr(one, kind)))}"
                for name, one in self.targets.items()
            )
            raise TargetError(f"target: no {kind} are legal on all of these targets: {listed}")
        return common


class _Renamed(Choices):
    """The choices of one target under the names that it gave them; what is read is noted under the full ones."""

    def __init__(self, choices: Choices, prefix: str) -> None:
        names = [name for name in choices if name.startswith(prefix)]
        super().__init__({f"{OWN_CHOICES}{name.removeprefix(prefix)}": "" for name in names})
        self._choices, self._prefix = choices, prefix

    def __getitem__(self, name: str) -> Value:
        return self._choices[f"{self._prefix}{name.removeprefix(OWN_CHOICES)}"]
