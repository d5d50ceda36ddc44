"""Which channels of a group matter least: one function each, `(group, model) -> scores`.

A criterion gives every channel of a group a score; the lowest are cut. Groups are scored one by one, each for
its own ratio, so scores need not compare between groups. Within a group that spans several layers, each
layer's scores are divided by their mean and then averaged: a layer with large weights does not outvote the
others. torch-pruning's own classes are not used: its FPGM squares the weights before it takes distances, and
its Taylor score adds up absolute values of a gradient averaged over batches, which is not what the paper
compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from autoprune.compress.dependency import gradients_everywhere
from autoprune.compress.groups import Group, Member
from autoprune.errors import BadInput
from autoprune.references import nearest
from autoprune.task import Batch, Task

Criterion = Callable[[Group, nn.Module], torch.Tensor]


def l1(group: Group, model: nn.Module) -> torch.Tensor:
    """Sum of the absolute weights that make a channel (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""
    return _over_layers(group, model, lambda rows: rows.abs().sum(1))


def l2(group: Group, model: nn.Module) -> torch.Tensor:
    """Euclidean norm of the weights that make a channel (He et al. 2018, https://arxiv.org/abs/1808.06866)."""
    return _over_layers(group, model, lambda rows: rows.norm(dim=1))


def fpgm(group: Group, model: nn.Module) -> torch.Tensor:
    """Summed distance to all other filters of the layer: small for one that the others can stand in for.

    Filter pruning via geometric median (He et al. 2019, https://arxiv.org/abs/1811.00250, eq. 4 and 5).
    """
    return _over_layers(group, model, lambda rows: torch.cdist(rows, rows).sum(1))


def taylor(group: Group, model: nn.Module) -> torch.Tensor:
    """Squared first-order change of the loss when a channel is zeroed, from the gradients of one batch.

    For a gate of 1 on a channel that is its gradient, squared (Molchanov et al. 2019,
    https://arxiv.org/abs/1906.10771, eq. 8). Gates where the channel is read, behind norm and activation,
    need no hooks: their gradient is Σ weight × gradient over the weights that read it. `score` sums over
    batches.
    """
    total = torch.zeros(group.channels)
    for reader in group.readers:
        weight = model.get_parameter(f"{reader.layer}.weight")
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        change = _columns(model, reader, (weight * gradient).detach()).sum(1)
        total.index_add_(0, torch.tensor(reader.channels), change.cpu().float())
    return total.square()


def bn_scale(group: Group, model: nn.Module) -> torch.Tensor:
    """Absolute scale of the BatchNorm behind a channel (Liu et al. 2017, https://arxiv.org/abs/1708.06519).

    A group without such a norm is scored by `l1`.
    """
    norms = [norm for norm in group.norms if getattr(model.get_submodule(norm.layer), "affine", False)]
    if not norms:
        return l1(group, model)
    scales = [model.get_parameter(f"{norm.layer}.weight").detach().abs() for norm in norms]
    parts = [scale[list(norm.rows)] for scale, norm in zip(scales, norms, strict=True)]
    return _average(group, norms, parts)


def random(group: Group, model: nn.Module) -> torch.Tensor:  # noqa: ARG001 - the signature of a criterion
    """A score drawn from torch's global generator: the baseline that a criterion has to beat."""
    return torch.rand(group.channels)


BUILT_IN: dict[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "fpgm": fpgm,
    "taylor": taylor,
    "bn_scale": bn_scale,
    "random": random,
}
NEEDS_GRADIENTS = ("taylor",)


def load_criterion(name: str) -> Criterion:
    """The built-in criterion of this name.

    Raises:
        BadInput: there is none.
    """
    if name not in BUILT_IN:
        raise BadInput(
            f"prune.criterion: got {name!r}, expected one of {', '.join(BUILT_IN)}{nearest(name, BUILT_IN)}"
        )
    return BUILT_IN[name]


def score(
    name: str, groups: Sequence[Group], model: nn.Module, task: Task, batches: Iterable[Batch]
) -> dict[str, torch.Tensor]:
    """Scores of every channel of `groups`, by group name; the lowest are the ones to cut.

    Args:
        name: a criterion.
        groups: which groups of `model` to score.
        model: the network, in eval mode; left without gradients.
        task: whose loss is descended, for criteria that need gradients.
        batches: of training data, read only by those; their scores are added up over them.
    """
    criterion = load_criterion(name)
    if name not in NEEDS_GRADIENTS:
        with torch.no_grad():
            return {group.name: criterion(group, model) for group in groups}
    totals = {group.name: torch.zeros(group.channels) for group in groups}
    with gradients_everywhere(model):
        for batch in batches:
            model.zero_grad(set_to_none=True)
            task.loss(model(batch.inputs), batch).backward()  # type: ignore[no-untyped-call]
            for group in groups:
                totals[group.name] += criterion(group, model)
        model.zero_grad(set_to_none=True)
    return totals


def _over_layers(
    group: Group, model: nn.Module, measure: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`measure` on the flattened weights (rows, values) of each layer of the group, averaged over layers."""
    weights = [model.get_parameter(f"{member.layer}.weight").detach() for member in group.members]
    parts = [measure(_rows(model, member, w)) for member, w in zip(group.members, weights, strict=True)]
    return _average(group, group.members, parts)


def _rows(model: nn.Module, member: Member, weight: torch.Tensor) -> torch.Tensor:
    """(rows of the member, values): the part of `weight` that makes each output channel.

    A transposed convolution holds (in, out/groups, ...): row r is made in its group's block of inputs.
    """
    layer = model.get_submodule(member.layer)
    if getattr(layer, "transposed", False):
        inputs, outputs, *kernel = weight.shape
        groups = int(layer.groups)  # type: ignore[arg-type]
        weight = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)[list(member.rows)]


def _columns(model: nn.Module, reader: Member, weight: torch.Tensor) -> torch.Tensor:
    """(columns of the reader, values): the part of `weight` that reads each input channel.

    A grouped convolution holds (out, in/groups, ...): the columns of each group are only in its own rows.
    """
    layer = model.get_submodule(reader.layer)
    if not getattr(layer, "transposed", False):
        outputs, inputs, *kernel = weight.shape
        groups = int(getattr(layer, "groups", 1))
        weight = weight.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)[list(reader.rows)]


def _average(group: Group, members: Sequence[Member], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over layers of each layer's values, divided by their mean first, for each channel of the group.

    A channel that no layer speaks for gets 1, the mean.
    """
    total, count = torch.zeros(group.channels), torch.zeros(group.channels)
    for member, values in zip(members, parts, strict=True):
        channels, scaled = (
            torch.tensor(member.channels),
            values.cpu().float() / values.mean().clamp_min(1e-12).item(),
        )
        total.index_add_(0, channels, scaled)
        count.index_add_(0, channels, torch.ones(len(channels)))
    return torch.where(count > 0, total / count.clamp_min(1.0), torch.ones(()))
