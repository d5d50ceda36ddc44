"""The diagonal of the Hessian is found, or its stand-in is, and that is said."""

from __future__ import annotations

import torch
from evidence import CrossEntropy, Squares, batches_of, free_groups, transformer
from sequence_networks import TorchAttention, sequence_example
from torch import nn

from autoprune.compress.criteria import Evidence, score
from autoprune.compress.criteria.hessian import curvature
from autoprune.task import Batch


class Once(torch.autograd.Function):
    """The identity, with a derivative that has none itself."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


class OnceDifferentiable(nn.Linear):
    """A linear layer that cannot be differentiated twice."""

    def forward(self, x):
        return Once.apply(super().forward(x))


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


def test_a_diagonal_hessian_is_exact_after_one_probe():
    model = nn.Linear(4, 2, bias=False)
    batch = Batch(torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.5])), torch.zeros(4, 2))
    found, how = curvature(model, weights_of(model), Squares(), [batch], seed=0)
    expected = torch.tensor([1.0, 4.0, 9.0, 0.25]).expand(2, 4)  # of ½ Σ (w x)²: the squared inputs
    assert how == "hutchinson" and torch.allclose(found["weight"], expected)


def test_any_other_is_approached_by_the_mean_over_probes():
    torch.manual_seed(0)
    model, batch = nn.Linear(5, 2, bias=False), Batch(torch.randn(12, 5), torch.zeros(12, 2))
    exact = batch.inputs.square().sum(0).expand(2, 5)
    few, many = (
        curvature(model, weights_of(model), Squares(), [batch] * count, seed=0)[0]["weight"]
        for count in (4, 400)
    )
    assert (many - exact).abs().max() < 0.15 * exact.max()
    assert (many - exact).norm() < 0.5 * (few - exact).norm()


def test_the_saliency_of_a_unit_is_half_of_curvature_times_square_over_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    batch = Batch(torch.randn(8, 4), torch.randn(8, 2))
    groups = list(free_groups(model, batch.inputs).values())
    bends, _ = curvature(model, {"0.weight": model[0].weight}, Squares(), [batch], seed=0)
    expected = 0.5 * (bends["0.weight"].abs() * model[0].weight.detach().square()).sum(1)
    assert torch.allclose(score("hessian", Evidence(model, Squares(), [batch], groups))["0"], expected)


def test_what_cannot_be_differentiated_twice_gets_the_empirical_fisher():
    torch.manual_seed(0)
    model = nn.Sequential(OnceDifferentiable(4, 3), nn.ReLU(), nn.Linear(3, 2))
    batch = Batch(torch.randn(8, 4), torch.arange(8) % 2)
    seen = Evidence(model, CrossEntropy(), [batch], list(free_groups(model, batch.inputs).values()))
    found = score("hessian", seen)["0"]
    loss = CrossEntropy().loss(model(batch.inputs), batch)
    (slope,) = torch.autograd.grad(loss, model[0].weight)
    assert seen.notes == {"curvature": "fisher"}
    assert torch.allclose(found, 4.0 * (slope * model[0].weight.detach()).square().sum(1))


def test_fused_attention_is_differentiated_twice():
    torch.manual_seed(0)
    model = TorchAttention().eval()
    inputs = sequence_example(TorchAttention).repeat(6, 1)
    _, how = curvature(model, weights_of(model), CrossEntropy(), batches_of(inputs), seed=0)
    assert how == "hutchinson"


def test_weights_that_the_loss_does_not_see_are_left_out():
    model, inputs = transformer()
    model.unused = nn.Linear(3, 3)
    found, _ = curvature(model, weights_of(model), CrossEntropy(), batches_of(inputs), seed=0)
    assert set(weights_of(model)) - set(found) == {"unused.weight"}
