"""How good an untrained network would become, guessed in milliseconds: training-free proxies, and the parameter count.

Each is a function `(network, task, batch) -> score`, larger for what should become better; the network is freshly
made. They are worth something only where they rank networks of the task better than the number of their parameters
does, which costs nothing and is the baseline that papers often leave out: `study.evidence` says so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from autoprune.study.evidence import PARAMS
from autoprune.task import Batch, Task, main_output
from autoprune.tensors import call, map_tensors, tensors_in

Proxy = Callable[[nn.Module, Task, Batch], float]

RIDGE = 1e-5  # keeps eigenvalues of a correlation away from 0


def params(network: nn.Module, task: Task, batch: Batch) -> float:  # noqa: ARG001
    """The number of parameters."""
    return float(sum(parameter.numel() for parameter in network.parameters()))


def grad_norm(network: nn.Module, task: Task, batch: Batch) -> float:
    """The sum of the norms of the gradients of each tensor (Abdelfattah et al. 2021)."""
    return sum(float(gradient.norm()) for _, gradient in _gradients(network, task, batch))


def snip(network: nn.Module, task: Task, batch: Batch) -> float:
    """The sum of |weight × gradient|: by how much the loss would change without each (Lee et al. 2019, SNIP)."""
    return sum(
        float((parameter * gradient).abs().sum()) for parameter, gradient in _gradients(network, task, batch)
    )


def synflow(network: nn.Module, task: Task, batch: Batch) -> float:
    """What flows through all paths: the network of absolute weights, fed with ones (Tanaka et al. 2020, SynFlow).

    The logarithm: the sum itself grows exponentially with depth.
    """
    network = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    ones = map_tensors(
        lambda tensor: (
            torch.ones_like(tensor[:1], dtype=torch.float64) if tensor.is_floating_point() else tensor[:1]
        ),
        batch.inputs,
    )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total = main_output(task, call(network, ones)).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    flow = sum(
        float((p.detach() * g).abs().sum())
        for p, g in zip(parameters, gradients, strict=True)
        if g is not None
    )
    return math.log(flow) if flow > 0 else -math.inf


def jacob_cov(network: nn.Module, task: Task, batch: Batch) -> float:
    """How differently the outputs depend on each example's input (Mellor et al. 2021, first version).

    NaN for inputs that are no real numbers.
    """
    inputs = map_tensors(
        lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()), batch.inputs
    )
    leaves = [tensor for tensor in tensors_in(inputs) if tensor.requires_grad]
    if not leaves:
        return math.nan
    network = copy.deepcopy(network).train()
    (gradient,) = torch.autograd.grad(main_output(task, call(network, inputs)).sum(), leaves[:1])
    values = torch.linalg.eigvalsh(torch.corrcoef(gradient.flatten(1).double()))
    return float(-(torch.log(values.clamp_min(0.0) + RIDGE) + 1.0 / (values.clamp_min(0.0) + RIDGE)).sum())


def _gradients(network: nn.Module, task: Task, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each parameter that the loss of a batch depends on, and its gradient."""
    network = copy.deepcopy(network).train()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    loss = task.loss(call(network, batch.inputs), batch)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [(p.detach(), g) for p, g in zip(parameters, gradients, strict=True) if g is not None]


PROXIES: dict[str, Proxy] = {
    PARAMS: params,
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "snip": snip,
    "grad_norm": grad_norm,
}


def scores(
    network: nn.Module, task: Task, batch: Batch, names: Sequence[str] = tuple(PROXIES)
) -> dict[str, float]:
    """What some proxies say of a freshly made network; it stays as it is."""
    return {name: PROXIES[name](network, task, batch) for name in names}
