"""Which units of a group matter least: one function each, `(group, model) -> scores`.

A criterion gives every unit of a group (a channel, a head, ...) a score; the lowest are cut. Groups are scored one
by one, each for its own ratio, so scores need not compare between groups. Within a group that spans several
layers, each layer's scores are divided by their mean and then averaged: a layer with large weights does not outvote
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from autoprune.errors import BadInput
from autoprune.references import nearest
from autoprune.structure import Group, Slice
from autoprune.task import Batch, Task
from autoprune.tensors import call

Criterion = Callable[[Group, nn.Module], torch.Tensor]


def l1(group: Group, model: nn.Module) -> torch.Tensor:
    """Sum of the absolute weights that make a unit (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""
    return _over_layers(group, model, lambda rows: rows.abs().sum(1))


def l2(group: Group, model: nn.Module) -> torch.Tensor:
    """Euclidean norm of the weights that make a unit (He et al. 2018, https://arxiv.org/abs/1808.06866)."""
    return _over_layers(group, model, lambda rows: rows.norm(dim=1))


def fpgm(group: Group, model: nn.Module) -> torch.Tensor:
    """Summed distance to all other units of the layer: small for one that the others can stand in for.

    Filter pruning via geometric median (He et al. 2019, https://arxiv.org/abs/1811.00250, eq. 4 and 5).
    """
    return _over_layers(group, model, lambda rows: torch.cdist(rows, rows).sum(1))


def taylor(group: Group, model: nn.Module) -> torch.Tensor:
    """Squared first-order change of the loss when a unit is zeroed, from the gradients of one batch.

    For a gate of 1 on a unit that is its gradient, squared (Molchanov et al. 2019,
    https://arxiv.org/abs/1906.10771, eq. 8). Gates where the unit is read, behind norm and activation,
    need no hooks: their gradient is Σ weight × gradient over the weights that read it. `score` sums over
    batches.
    """
    total = torch.zeros(group.units)
    for part in group.role("reads") or group.role("writes"):
        weight = _tensor(model, part)
        if weight.grad is not None:
            total += _rows(part, (weight * weight.grad).detach()).sum(1).cpu().float()
    return total.square()


def bn_scale(group: Group, model: nn.Module) -> torch.Tensor:
    """Absolute scale of the BatchNorm behind a unit (Liu et al. 2017, https://arxiv.org/abs/1708.06519).

    A group without such a norm is scored by `l1`.
    """
    scales = [part for part in group.role("follows") if _is_norm_scale(model, part)]
    if not scales:
        return l1(group, model)
    return _average([_rows(part, _tensor(model, part).detach().abs()).sum(1) for part in scales])


def _is_norm_scale(model: nn.Module, part: Slice) -> bool:
    norm = isinstance(model.get_submodule(part.layer), nn.modules.batchnorm._BatchNorm)
    return norm and part.tensor.endswith(".weight")


def random(group: Group, model: nn.Module) -> torch.Tensor:  # noqa: ARG001 - the signature of a criterion
    """A score drawn from torch's global generator: the baseline that a criterion has to beat."""
    return torch.rand(group.units)


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
    """Scores of every unit of `groups`, by group name; the lowest are the ones to cut.

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
    totals = {group.name: torch.zeros(group.units) for group in groups}
    with gradients_everywhere(model):
        for batch in batches:
            model.zero_grad(set_to_none=True)
            task.loss(call(model, batch.inputs), batch).backward()  # type: ignore[no-untyped-call]
            for group in groups:
                totals[group.name] += criterion(group, model)
        model.zero_grad(set_to_none=True)
    return totals


@contextmanager
def gradients_everywhere(model: nn.Module) -> Iterator[None]:
    """Let gradients reach every floating parameter, and leave each parameter's flag as it was."""
    flags: Mapping[nn.Parameter, bool] = {p: p.requires_grad for p in model.parameters()}
    for parameter in flags:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _over_layers(
    group: Group, model: nn.Module, measure: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`measure` on the weights (units, values) of each layer that writes the group, averaged over layers."""
    return _average([measure(_rows(part, _tensor(model, part).detach())) for part in group.role("writes")])


def _tensor(model: nn.Module, part: Slice) -> torch.Tensor:
    owner, _, name = part.tensor.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(owner), name)
    return tensor


def _rows(part: Slice, tensor: torch.Tensor) -> torch.Tensor:
    """(units, values): what of a tensor belongs to each unit."""
    rows = tensor.movedim(part.axis, 0).flatten(1) if tensor.dim() > 1 else tensor[:, None]
    units, copies = part.positions.shape
    chosen = torch.from_numpy(part.positions.reshape(-1)).to(tensor.device)
    return rows[chosen].reshape(units, copies * rows.shape[1])


def _average(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over layers of each layer's scores, divided by their mean first."""
    scaled = [part.cpu().float() / part.float().mean().clamp_min(1e-12).item() for part in parts]
    return torch.stack(scaled).mean(0)
