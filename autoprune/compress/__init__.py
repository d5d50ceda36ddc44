"""What is done to a model: one technique per file, each on the contract of `technique.Technique`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprune.compress.technique import Technique
    from autoprune.spec import Spec


def techniques_of(spec: Spec) -> list[Technique]:
    """The techniques that a spec asks for, with its settings, in the order in which they are applied."""
    from autoprune.compress.distill import Distill
    from autoprune.compress.prune import Prune
    from autoprune.compress.quantize import Quantize

    space = spec.space
    found: list[Technique] = []
    if space.prune is not None:
        found.append(Prune(**dict(space.prune)))
    if space.distill is not None:
        found.append(Distill(**dict(space.distill), folder=spec.folder))
    if space.quantize is not None:
        found.append(Quantize(**dict(space.quantize)))
    return found
