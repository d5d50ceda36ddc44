"""The flat space of a search: named choices, as Optuna, a JSON file and a person all read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.space.choice import Choice, Options, Value, choice_from_json

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

    def changes_to(self, now: Space) -> tuple[list[str], list[str]]:
        """What became of this space: a line for each choice that can no longer be used, and each that came or went.

        Args:
            now: the space as it is now.

        Returns:
            First the choices that lost a value, so that points of this space may lie outside of the other one. Then
            those that are gone, which nothing reads any more, and new ones, which stay neutral.
        """
        lost = [
            f"{name}: was {self[name].to_json()}, is {now[name].to_json()}"
            for name in self
            if name in now and not _contains(now[name], self[name])
        ]
        gone = [
            f"{name}: is gone; what trials chose of it has no effect any more"
            for name in self
            if name not in now
        ]
        new = [f"{name}: is new; it stays at {now[name].neutral!r}" for name in now if name not in self]
        return lost, gone + new

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return {name: choice.to_json() for name, choice in self.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """The space that `to_json` wrote."""
        return cls({name: choice_from_json(choice) for name, choice in data.items()})


def _contains(choice: Choice, other: Choice) -> bool:
    """Whether every value of another choice is one of this choice."""
    if isinstance(other, Options):
        return all(value in choice for value in other.values)
    if isinstance(choice, Options):
        return False
    return choice.low <= other.low and other.high <= choice.high and choice.step == other.step
