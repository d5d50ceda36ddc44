"""How far each choice moves what a network says: what a search is told of the damage before it tries anything.

`Calibration.distance` is the direct answer, for one candidate that was really made: how far its outputs are from those
of the uncompressed network on a few hundred training examples. `estimates` answers for every pruning ratio, sparsity
and bit width at once from a few backward passes: ½ Σ F Δw², the second-order change of the outputs' distribution when
weights change by Δw, with the diagonal of the empirical Fisher information F (Theis et al., "Faster gaze prediction
with dense networks and Fisher pruning", 2018, https://arxiv.org/abs/1801.05787). Both are in nats where outputs are
classes, so that the one can stand in for the other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.compress.criteria.units import gradients_everywhere, rows_of
from autoprune.compress.distill.logits import (
    REAL,
    class_axis,
    counted_places,
    outputs_kind,
    soft_distance,
    soft_labels_distance,
)
from autoprune.compress.technique import Context
from autoprune.space import Choice, Value
from autoprune.space.levels import levels
from autoprune.structure import Group
from autoprune.task import Batch, main_output
from autoprune.tensors import call
from autoprune.train import recalibrate

# Of the examples that outputs are compared on; BatchNorm is recalibrated on as many.
BATCH_SIZE, BATCHES = 64, 2
FISHER_BATCH_SIZE, FISHER_BATCHES = 16, 24
FLOAT_BITS = 32

Damage = dict[str, list[tuple[Value, float]]]
"""Choice -> (value, how far the outputs move) pairs."""


class Calibration:
    """Training examples and what the uncompressed network says to them.

    Args:
        context: task, data and reference.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        # Another seed than techniques read their examples with: what units were chosen by flatters the choice.
        batches = context.data.train.batches(BATCH_SIZE, shuffle=context.seed + 1)
        self.batches: list[Batch] = list(islice(batches, BATCHES))
        with torch.no_grad():
            self._said = [main_output(context.task, call(context.reference, b.inputs)) for b in self.batches]

    def mend(self, model: nn.Module) -> None:
        """Recalibrate the BatchNorm of a candidate on as few examples as do."""
        split, seed = self._context.data.train, self._context.seed
        recalibrate(model, split, batch_size=BATCH_SIZE, batches=BATCHES, seed=seed)

    @cached_property
    def floor(self) -> float:
        """How far outputs move when BatchNorm is recalibrated on so few examples and nothing else is done."""
        model = copy.deepcopy(self._context.reference)
        self.mend(model)
        return self.distance(model)

    @torch.no_grad()
    def distance(self, model: nn.Module) -> float:
        """How far the outputs of a candidate are from the reference's, 0 or more, averaged over the examples.

        The Kullback-Leibler divergence where outputs are classes or labels, in nats; of real values the squared error
        as a share of their variance.
        """
        total, count = 0.0, 0
        for batch, taught in zip(self.batches, self._said, strict=True):
            said = main_output(self._context.task, call(model, batch.inputs))
            total += len(taught) * self._between(said.float(), taught.float(), batch)
            count += len(taught)
        return max(0.0, total / max(1, count))

    def _between(self, said: torch.Tensor, taught: torch.Tensor, batch: Batch) -> float:
        task = self._context.task
        kind = outputs_kind(task, batch)
        if kind in REAL:
            spread = torch.cat([known.float().flatten() for known in self._said]).var()
            return float(F.mse_loss(said, taught) / spread.clamp_min(1e-12))
        if kind == "multi_label":
            return float(soft_labels_distance(said, taught, 1.0))
        counted = counted_places(task, batch, kind, said)
        return float(soft_distance(said, taught, 1.0, class_axis(kind), counted))


def fisher(model: nn.Module, context: Context) -> dict[str, torch.Tensor]:
    """The diagonal of the empirical Fisher information of every parameter, by name.

    Gradients are squared batch by batch; for independent examples the square of a batch's mean is the mean of the
    squares divided by the batch's size.
    """
    named = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    totals = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in named.items()}
    batches = context.data.train.batches(FISHER_BATCH_SIZE, shuffle=context.seed)
    count = 0
    with gradients_everywhere(model):
        for batch in islice(batches, FISHER_BATCHES):
            loss = context.task.loss(call(model, batch.inputs), batch)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    totals[name] += gradient.square()
            count += 1
    return {name: total * (FISHER_BATCH_SIZE / max(1, count)) for name, total in totals.items()}


@torch.no_grad()
def estimates(
    model: nn.Module,
    information: Mapping[str, torch.Tensor],
    choices: Mapping[str, Choice],
    groups: Sequence[tuple[str, Group]],
) -> Damage:
    """What pruning ratios, sparsities and weight bits should move, from the Fisher information alone.

    Args:
        model: the uncompressed network.
        information: see `fisher`.
        choices: of the space; choices of other kinds are left out.
        groups: (choice of its ratio, group) of all groups that can be pruned.
    """
    weights = dict(model.named_parameters())
    found: Damage = {}
    for name, group in groups:
        if name in choices:
            lost = _of_units(group, weights, information)
            for value in levels(choices[name]):
                share = float(value) if isinstance(value, int | float) else 0.0
                count = min(round(share * group.units), group.units - 1)
                known = dict(found.get(name, []))
                known[value] = known.get(value, 0.0) + float(lost[:count].sum())
                found[name] = list(known.items())
    for layer in [n for n, module in model.named_modules() if n and "weight" in module._parameters]:
        weight, info = weights.get(f"{layer}.weight"), information.get(f"{layer}.weight")
        if weight is None or info is None or weight.dim() < 2:
            continue
        for name, losses in (
            (f"sparsify.{layer}.sparsity", _of_zeros),
            (f"quantize.{layer}.weight_bits", _of_rounding),
        ):
            if name in choices:
                found[name] = [(value, losses(weight, info, float(value))) for value in levels(choices[name])]
    return found


def _of_units(
    group: Group, weights: Mapping[str, torch.Tensor], information: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """½ Σ F w² of each unit of a group over the weights that write it, ascending."""
    total = torch.zeros(group.units)
    for part in group.role("writes"):
        if part.tensor in information:
            change = 0.5 * information[part.tensor] * weights[part.tensor].square()
            along = change.movedim(part.axis, 0).flatten(1).sum(1).cpu().float()
            total += rows_of(part, along).sum(1)
    return total.sort().values


def _of_zeros(weight: torch.Tensor, information: torch.Tensor, sparsity: float) -> float:
    """½ Σ F w² over the smallest weights."""
    order = weight.abs().flatten().argsort()[: int(sparsity * weight.numel())]
    return float(0.5 * (information.flatten()[order] * weight.flatten()[order].square()).sum())


def _of_rounding(weight: torch.Tensor, information: torch.Tensor, bits: float) -> float:
    """½ Σ F Δw² of weights rounded to the nearest of so many bits, on a scale for each output."""
    if bits >= FLOAT_BITS // 2:
        return 0.0
    rows = weight.flatten(1)
    step = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(1e-12)
    change = rows - (rows / step).round() * step
    return float(0.5 * (information.flatten(1) * change.square()).sum())
