"""What is done to a model: one technique per file, each on the contract of `technique.Technique`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.compress.technique import Technique
    from autoprune.spec import Spec
    from autoprune.spec.techniques import GradualSpace


def techniques_of(spec: Spec) -> list[Technique]:
    """The techniques that a spec asks for, with its settings, in the order in which they are applied."""
    from autoprune.compress.data_pruning import DataPruning
    from autoprune.compress.depth import Depth
    from autoprune.compress.distill import Distill
    from autoprune.compress.factorize import Factorize
    from autoprune.compress.prune import Prune
    from autoprune.compress.quantize import Quantize
    from autoprune.compress.sparsify import Sparsify
    from autoprune.compress.store import Store
    from autoprune.compress.transfer import Transfer

    space = spec.space
    found: list[Technique] = []
    if space.transfer is not None:
        found.append(Transfer(**dict(space.transfer)))
    if space.depth is not None:
        found.append(Depth(**dict(space.depth)))
    if space.prune is not None:
        found.append(Prune(**_gradually(space.prune)))
    if space.factorize is not None:
        found.append(Factorize(**dict(space.factorize)))
    if space.sparsify is not None:
        found.append(Sparsify(**_gradually(space.sparsify)))
    if space.distill is not None:
        found.append(Distill(**dict(space.distill), folder=spec.folder))
    if space.quantize is not None:
        found.append(Quantize(**dict(space.quantize)))
    if space.store is not None:
        found.append(Store(**dict(space.store)))
    if space.data_pruning is not None:
        found.append(DataPruning(**dict(space.data_pruning)))
    return found


def _gradually(space: GradualSpace) -> dict[str, Any]:
    """The fields of a space, with those that schedules read together as one argument."""
    from dataclasses import fields

    from autoprune.compress.gradual import Gradual

    given = dict(space)
    gradual = Gradual(**{field.name: given.pop(field.name) for field in fields(Gradual)})
    return {**given, "gradual": gradual}
