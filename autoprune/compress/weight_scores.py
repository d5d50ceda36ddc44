"""Which single weights matter least: one function for each criterion, `(evidence, weights) -> scores`.

Scores have the shape of their weight, and the lowest go. Within a layer all of them rank weights; across layers, where
there is one sparsity for the whole network, `lamp` is made to compare, `taylor` and `hessian` speak of the same loss,
and `l1` and `activation` compare what may have different scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoprune.compress.criteria.hessian import curvature
from autoprune.compress.criteria.magnitude import survivors_share
from autoprune.compress.criteria.reads import Place, Reads
from autoprune.compress.criteria.units import Evidence, gradients_everywhere
from autoprune.structure.observe import state_of
from autoprune.tensors import call, in_eval_mode

Weights = Mapping[str, nn.Parameter]
Scores = dict[str, torch.Tensor]


def l1(evidence: Evidence, weights: Weights) -> Scores:  # noqa: ARG001 - the signature of a criterion
    """Magnitude (Han et al. 2015, https://arxiv.org/abs/1506.02626)."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def lamp(evidence: Evidence, weights: Weights) -> Scores:  # noqa: ARG001
    """The layer-adaptive score of magnitudes (Lee et al. 2021, https://arxiv.org/abs/2010.07611, eq. 3)."""
    return {name: survivors_share(weight.detach().square()) for name, weight in weights.items()}


def taylor(evidence: Evidence, weights: Weights) -> Scores:
    """The squared first-order change of the loss when a weight is zeroed, summed over batches.

    Molchanov et al. 2019, https://arxiv.org/abs/1906.10771, eq. 3, of single weights.
    """
    totals = {name: torch.zeros_like(weight.detach()) for name, weight in weights.items()}
    with gradients_everywhere(evidence.model):
        for batch in evidence.batches:
            loss = evidence.task.loss(call(evidence.model, batch.inputs), batch)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    totals[name] += (weight.detach() * gradient).square()
    return totals


def hessian(evidence: Evidence, weights: Weights) -> Scores:
    """Optimal brain damage, ½ |h| w² (LeCun, Denker & Solla 1990, eq. 5), of single weights; see `criteria.hessian`."""
    bends, how = curvature(evidence.model, weights, evidence.task, evidence.batches, evidence.seed)
    evidence.notes["curvature"] = how
    zero = torch.zeros(())
    return {name: 0.5 * bends.get(name, zero).abs() * w.detach().square() for name, w in weights.items()}


def activation(evidence: Evidence, weights: Weights) -> Scores:
    """A weight times what it is multiplied with: |w| times the root mean square of its input feature.

    Wanda (Sun et al. 2023, https://arxiv.org/abs/2306.11695, eq. 1), with the mean over positions in place of the
    sum, which is the same within a layer and compares better between a convolution and a linear layer. The paper
    ranks the weights of each output by themselves; here, as for every criterion, those of the layer. Layers of which
    no product is seen are scored by `l1` (`notes["by_l1"]`).
    """
    reads = Reads(evidence.model, torch.square)
    for batch in evidence.batches:
        reads.watch(batch.inputs)
    squares = reads.means()
    names = {id(tensor): name for name, tensor in reversed(state_of(evidence.model).items())}
    found: Scores = {}
    for layer, weight in weights.items():
        places: list[Place] = [place for place in squares if place[0] == names[id(weight)]]
        if not places:
            evidence.notes.setdefault("by_l1", {})[layer] = "no product was seen that reads it"
        sizes = _along(squares[places[0]].sqrt(), weight, places[0][1]) if places else torch.ones(())
        found[layer] = weight.detach().abs() * sizes.to(weight)
    return found


def _along(features: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Features (blocks, length) so that they multiply a weight along an axis; the blocks share its first axis."""
    blocks, length = features.shape
    shape = [1] * weight.dim()
    shape[axis] = length
    if blocks > 1:
        shape[0] = len(weight)
        features = features.repeat_interleave(len(weight) // blocks, 0)
    return features.reshape(shape)


def random(evidence: Evidence, weights: Weights) -> Scores:
    """A number drawn for each weight: the baseline that a criterion has to beat."""
    generator = torch.Generator().manual_seed(evidence.seed)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}


BUILT_IN: dict[str, Callable[[Evidence, Weights], Scores]] = {
    "l1": l1,
    "lamp": lamp,
    "taylor": taylor,
    "hessian": hessian,
    "activation": activation,
    "random": random,
}


def score(name: str, evidence: Evidence, weights: Weights) -> Scores:
    """A score for every value of each weight, by the same names; the model stays as it is.

    Args:
        name: a criterion.
        evidence: the network that the weights belong to, and what may be observed of it.
        weights: some of its parameters, of two axes or more, by names of the caller's.
    """
    with in_eval_mode(evidence.model), torch.no_grad():
        return BUILT_IN[name](evidence, weights)
