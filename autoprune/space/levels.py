"""The values of a choice that are looked at when its effect alone is wanted."""

from __future__ import annotations

from autoprune.space.choice import Choice, Options, Value

LEVELS = (0.3, 0.65, 1.0)  # of the way from doing nothing to the most, where a choice is a range


def levels(choice: Choice) -> list[Value]:
    """All options, of a range some numbers from the end where it does nothing to the other; not the neutral value."""
    if isinstance(choice, Options):
        values = list(choice.values)
    else:
        upwards = abs(choice.low - choice.neutral) <= abs(choice.high - choice.neutral)
        values = [choice.at(share if upwards else 1.0 - share) for share in LEVELS]
    return [value for value in dict.fromkeys(values) if value != choice.neutral]
