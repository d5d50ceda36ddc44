"""Second-order importance: how the loss bends along the weights that make a unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprune.compress.criteria.units import (
    Evidence,
    Score,
    Unscored,
    gradients_everywhere,
    rows_of,
    tensor_of,
)
from autoprune.structure import Group
from autoprune.structure.running import plain_execution
from autoprune.task import Batch, Task
from autoprune.tensors import batch_size, call

Weights = Mapping[str, torch.Tensor]
HUTCHINSON, FISHER = "hutchinson", "fisher"


def hessian(evidence: Evidence) -> Score:
    """Optimal brain damage: Σ ½ |h| w² over the weights that make a unit, h from the diagonal of the Hessian.

    The saliency of single weights is LeCun, Denker & Solla's ("Optimal brain damage", 1990, eq. 5), its sum over
    what goes together that of Hessian-aware pruning (Yu et al. 2021, https://arxiv.org/abs/2101.08940). A change of
    the loss has the same unit in every layer, so layers are added up. There the network is in a minimum and no h is
    negative; short of it, weights along which the loss bends downwards would count as worse than none, so the size of
    h counts (digits, 60 % of the units of a perceptron: 80 % accuracy, 57 % with the sign; a quarter of the channels
    of a CNN: 85 %, 51 %). `notes["curvature"]` says how h was estimated.
    """
    model = evidence.model
    places = [part for group in evidence.groups for part in group.role("writes")]
    weights = {part.tensor: tensor_of(model, part) for part in places}
    bends, how = curvature(model, weights, evidence.task, evidence.batches, evidence.seed)
    evidence.notes["curvature"] = how

    def scores(group: Group) -> torch.Tensor:
        parts = [part for part in group.role("writes") if part.tensor in bends]
        if not parts:
            raise Unscored("no gradient reaches the weights that make it")
        changes = [
            rows_of(part, 0.5 * bends[part.tensor].abs() * weights[part.tensor].detach().square())
            for part in parts
        ]
        return torch.stack([change.sum(1).cpu().float() for change in changes]).sum(0)

    return scores


def curvature(
    model: nn.Module, weights: Weights, task: Task, batches: Iterable[Batch], seed: int
) -> tuple[dict[str, torch.Tensor], str]:
    """The diagonal of the Hessian of the loss with respect to some weights, and how it was estimated.

    Args:
        model: the network; run in eval mode, by kernels that can be differentiated twice.
        weights: parameters of the model, by name.
        task: gives the loss.
        batches: the diagonal is a mean over them.
        seed: of the probes.

    Returns:
        For each weight that the loss depends on its diagonal, in the shape of the weight; and how: `hutchinson`, the
        mean of z ⊙ Hz over random signs z, one draw for each batch (Bekas, Kokiopoulou & Saad 2007, "An estimator for
        the diagonal of a matrix"), which costs about three gradients a batch; or, where an operation cannot be
        differentiated twice, `fisher`, the mean of the squared gradient of a batch, times its size: the Hessian of a
        network that gives the likelihood of the targets and has learned it.
    """
    kept = list(batches)
    weights = {
        name: w for name, w in weights.items() if isinstance(w, nn.Parameter) and w.is_floating_point()
    }
    with plain_execution(model), sdpa_kernel(SDPBackend.MATH), gradients_everywhere(model):
        try:
            return _hutchinson(model, weights, task, kept, seed), HUTCHINSON
        except RuntimeError:  # torch has no class of its own for a derivative that is missing
            return _fisher(model, weights, task, kept), FISHER


def _hutchinson(
    model: nn.Module, weights: Weights, task: Task, batches: Sequence[Batch], seed: int
) -> dict[str, torch.Tensor]:
    generator, found = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    values = list(weights.values())
    for batch in batches:
        loss = task.loss(call(model, batch.inputs), batch)
        slopes = torch.autograd.grad(loss, values, create_graph=True, allow_unused=True)
        signs = [torch.randint(0, 2, v.shape, generator=generator).to(v) * 2 - 1 for v in values]
        reached = [i for i, slope in enumerate(slopes) if slope is not None and slope.requires_grad]
        bends = torch.autograd.grad(
            [slopes[i] for i in reached], values, [signs[i] for i in reached], allow_unused=True
        )
        for name, slope, sign, bend in zip(weights, slopes, signs, bends, strict=True):
            if slope is not None and bend is None:
                raise RuntimeError(f"the gradient of {name} has no derivative")
            if bend is not None:
                found[name] = found.get(name, 0.0) + sign * bend.detach() / len(batches)
    return found


def _fisher(
    model: nn.Module, weights: Weights, task: Task, batches: Sequence[Batch]
) -> dict[str, torch.Tensor]:
    found = dict[str, torch.Tensor]()
    for batch in batches:
        loss = task.loss(call(model, batch.inputs), batch)
        slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, slope in zip(weights, slopes, strict=True):
            if slope is not None:
                bend = slope.square() * batch_size(batch.inputs) / len(batches)
                found[name] = found.get(name, 0.0) + bend
    return found
