"""What a search may decide: choices, points, and the flat space that they make up."""

from autoprune.space.choice import Choice, Choices, Options, Range, Value, choice_from_json
from autoprune.space.names import ARCHITECTURE, kind_of
from autoprune.space.space import Space

__all__ = [
    "ARCHITECTURE",
    "Choice",
    "Choices",
    "Options",
    "Range",
    "Space",
    "Value",
    "choice_from_json",
    "kind_of",
]
