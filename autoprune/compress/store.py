"""How the weights of a candidate are stored: a choice, because it trades nothing but the time to load.

Coding changes no weight, so that it costs no accuracy; `deployed.coding` says what each one is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.compress.technique import Context, Technique
from autoprune.space import Choice, Choices, Options

if TYPE_CHECKING:
    from autoprune.targets import Target

CODING = "store.coding"


class Store(Technique):
    """Choose how the artifact's weight file is coded.

    Args:
        coding: the choice of `none` (every value at its width), `huffman` or `entropy`.
    """

    name = "store"

    def __init__(self, coding: Options = Options(("none",), "none")) -> None:  # noqa: B008 (immutable)
        self.coding = coding

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """One choice for the whole network."""
        return {CODING: self.coding}

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Record the coding; the model stays as it is."""
        context.structure[self.name] = {"coding": choices.text(CODING, "none")}
        return model


def coding_of(structure: Mapping[str, Any]) -> str:
    """The coding of a candidate's weight file, from its structure: what `deployed.stored_bytes` takes.

    Without one, a candidate with zeros inside its weights is still stored without them (`sparse`). Anything but
    `none` makes the size depend on the weights: it is known once they are trained, and before that at most what
    it is without a coding.
    """
    coding = str(structure.get("store", {}).get("coding", "none"))
    return "sparse" if coding == "none" and "sparsify" in structure else coding
