"""First-order importance: how the loss changes when a gate on a unit closes."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.compress.criteria.units import (
    Evidence,
    Score,
    Unscored,
    gradients_everywhere,
    rows_of,
    tensor_of,
)
from autoprune.structure import Group
from autoprune.tensors import call


def taylor(evidence: Evidence) -> Score:
    """Squared first-order change of the loss when a unit is zeroed, batch by batch, added up over batches.

    For a gate of 1 on a unit that is its gradient, squared (Molchanov et al. 2019,
    https://arxiv.org/abs/1906.10771, eq. 8). Gates where the unit is read, behind norm and activation, need no
    hooks: their gradient is Σ weight × gradient over the weights that read it.
    """
    model, totals = evidence.model, dict[str, torch.Tensor]()
    with gradients_everywhere(model):
        for batch in evidence.batches:
            model.zero_grad(set_to_none=True)
            evidence.task.loss(call(model, batch.inputs), batch).backward()  # type: ignore[no-untyped-call]
            for group in evidence.groups:
                changes = _gate_gradients(group, model)
                if changes:
                    squared = torch.stack(changes).sum(0).square()
                    totals[group.name] = totals.get(group.name, 0.0) + squared

    def scores(group: Group) -> torch.Tensor:
        if group.name not in totals:
            raise Unscored("no gradient reaches the weights that read it")
        return totals[group.name]

    return scores


def _gate_gradients(group: Group, model: nn.Module) -> list[torch.Tensor]:
    """The gradient of each unit's gate, shape (units,), for each layer that got a gradient."""
    parts = group.role("reads") or group.role("writes")
    weights = [(part, tensor_of(model, part)) for part in parts]
    return [
        rows_of(part, (weight * weight.grad).detach()).sum(1).cpu().float()
        for part, weight in weights
        if weight.grad is not None
    ]
