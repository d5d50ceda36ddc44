"""Which proposals have been answered already: those that agree with a trial on everything that it read."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.space import Value

Key = tuple[Value, ...]


class Duplicates:
    """Trials by what they read. A look-up costs one step for each distinct set of names that was read."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, ...], dict[Key, int]] = {}
        self._places: dict[int, tuple[tuple[str, ...], Key]] = {}

    def add(self, number: int, read: Mapping[str, Value]) -> None:
        """Note what a trial has read by now; an earlier note on it is forgotten."""
        if number in self._places:
            names, key = self._places.pop(number)
            if self._tables[names].get(key) == number:
                del self._tables[names][key]
        names = tuple(sorted(read))
        key = tuple(read[name] for name in names)
        self._tables.setdefault(names, {}).setdefault(key, number)
        self._places[number] = (names, key)

    def find(self, point: Mapping[str, Value]) -> int | None:
        """The first trial that `point` would only repeat, None when it is new."""
        found = [
            table[key]
            for names, table in self._tables.items()
            if (key := tuple(point.get(name, "") for name in names)) in table
        ]
        return min(found, default=None)
