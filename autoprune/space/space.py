"""The flat space of a search: named choices, as Optuna, a JSON file and a person all read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.space.choice import Choice, Value, choice_from_json

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Space(Mapping[str, Choice]):
    """Choices by name: `prune.layer2.ratio`, `quantize.conv1.weight_bits`, `architecture.depth`."""

    def __init__(self, choices: Mapping[str, Choice]) -> None:
        self._choices = dict(choices)

    def __getitem__(self, name: str) -> Choice:
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's words."""
        return {name: choice.distribution() for name, choice in self.items()}

    def neutral(self) -> dict[str, Value]:
        """The point that leaves the model as it is: the uncompressed baseline.

        It may lie outside the space, where the user left "do nothing" out of a choice.
        """
        return {name: choice.neutral for name, choice in self.items()}

    def problems_of(self, point: Mapping[str, Value]) -> list[str]:
        """One line for each value of `point` that the space does not have."""
        unknown = [f"{name}: not a choice of this space" for name in point if name not in self]
        outside = [
            f"{name}: got {point[name]!r}, accepted is {choice.to_json()}"
            for name, choice in self.items()
            if name in point and point[name] not in choice
        ]
        return unknown + outside

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return {name: choice.to_json() for name, choice in self.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """The space that `to_json` wrote."""
        return cls({name: choice_from_json(choice) for name, choice in data.items()})
