"""Of what the costs of a network are made up: every weight, what it multiplies, and which groups its axes belong to.

Plain data, from which the costs of any point of a space follow by arithmetic, without a network (see `search.prices`):
pruning a group scales the axes that it lies along, and multiply-accumulates are in proportion to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from autoprune.cost.count import layer_table
from autoprune.deployed import layer_kind
from autoprune.structure import Group
from autoprune.tensors import Inputs


def cost_terms(model: nn.Module, example: Inputs, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Every parameter of a float network.

    Args:
        model: the network.
        example: inputs of batch size 1.
        groups: what can be pruned of it.

    Returns:
        for each parameter `layer`, `params` (0 where it is tied to one before), `macs` (those of its layer that it
        takes part in), `can_round` (whether its layer can be quantized), `axes`: for each axis the groups that lie
        along it, as [name, share of the axis], and `reads`, `writes`: the axis of a weight that is multiplied with
        inputs, and the one of the outputs, with their number `outputs` (None and 0 of anything else).
    """
    macs = {row["name"]: row["macs"] for row in layer_table(model, example)}
    matrices: dict[str, int] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        if parameter.dim() > 1:
            layer = name.rpartition(".")[0]
            matrices[layer] = matrices.get(layer, 0) + parameter.numel()
    along = _along(groups, {name: tuple(parameter.shape) for name, parameter in named})
    terms, seen = [], set()
    for name, parameter in named:
        layer, size = name.rpartition(".")[0], parameter.numel()
        shared = size / matrices[layer] if parameter.dim() > 1 else 0.0
        kind = layer_kind(model.get_submodule(layer)) if layer else ""
        reads, writes = _roles(model.get_submodule(layer), kind) if parameter.dim() > 1 else (None, None)
        terms.append(
            {
                "layer": layer,
                "params": 0 if parameter in seen else size,
                "macs": round(macs.get(layer, 0) * shared),
                "can_round": bool(kind) and parameter.dim() > 1,
                "axes": along.get(name, [[] for _ in parameter.shape]),
                "reads": reads,
                "writes": writes,
                "outputs": 0 if writes is None else parameter.shape[writes],
            }
        )
        seen.add(parameter)
    return terms


def _along(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[list[tuple[str, float]]]]:
    """For each axis of each parameter the groups that lie along it."""
    found: dict[str, list[list[tuple[str, float]]]] = {
        name: [[] for _ in shape] for name, shape in shapes.items()
    }
    for group in groups:
        for part in group.slices:
            if part.tensor in shapes:
                share = part.positions.size / shapes[part.tensor][part.axis]
                found[part.tensor][part.axis].append((group.name, share))
    return found


def _roles(layer: nn.Module, kind: str) -> tuple[int | None, int | None]:
    """(input axis, output axis) of the weight of a layer that can be quantized."""
    if not kind:
        return None, None
    swapped = kind.startswith("ConvTranspose") or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    return (0, 1) if swapped else (1, 0)
