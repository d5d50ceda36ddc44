"""What the name of a choice says: `technique.layer.kind`, or `architecture.argument`."""

from __future__ import annotations

ARCHITECTURE = "architecture."
"""What names of the choices of a network as a whole begin with; what follows is an argument of the task's `model`."""


def kind_of(name: str) -> str:
    """What a choice decides about its layer: the last part of its name."""
    return name.rpartition(".")[2]
