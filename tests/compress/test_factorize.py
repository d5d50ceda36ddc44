"""Low rank as a technique: nothing lost at full rank, below it the tail of the singular values."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from autoprune import cost
from autoprune.candidate import restore, save_checkpoint
from autoprune.compress.factorize import (
    METHODS,
    Factorize,
    Factors,
    as_matrix,
    factorized,
    full_rank,
    saving_rank,
)
from autoprune.compress.prune import Prune
from autoprune.compress.quantize import Quantize
from autoprune.compress.sparsify import Sparsify
from autoprune.compress.technique import Context, Technique
from autoprune.deployed import QuantizedLayer
from autoprune.space import Choices
from autoprune.spec import techniques
from autoprune.stored.replay import layers_to_json, rebuild
from autoprune.task import ClassificationTask, evaluate_metrics, example_inputs
from autoprune.train import TrainSettings, train

TARGET: Any = SimpleNamespace(channel_multiple=1, weight_bits=(8, 32), activation_bits=(8, 32))
LAYERS = [
    (nn.Linear(12, 20), (12,)),
    (nn.Conv2d(5, 7, 3, stride=2, padding=1, dilation=(1, 2)), (5, 9, 9)),
    (nn.Conv2d(5, 7, (2, 3), padding="same", padding_mode="reflect", bias=False), (5, 9, 9)),
    (nn.Conv2d(5, 7, (1, 3), padding=(0, 1)), (5, 9, 9)),
    (nn.Conv1d(4, 6, 5, padding=2, stride=3), (4, 11)),
    (nn.Conv3d(4, 6, 3), (4, 5, 5, 5)),
]
KINDS = [f"{type(layer).__name__}{getattr(layer, 'kernel_size', '')}" for layer, _ in LAYERS]


def net(width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(width * 16, 48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip


class Digits(ClassificationTask):
    def __init__(self) -> None:
        digits = load_digits()
        super().__init__(net, ((digits.images[:, None] / 16).astype("float32"), digits.target))


@pytest.fixture(scope="module")
def context() -> Context:
    task = Digits()
    torch.manual_seed(0)
    reference, data = net(), task.data()
    train(reference, task, data.train, epochs=6, settings=TrainSettings(batch_size=64))
    return Context(task, data, TARGET, reference.requires_grad_(False))


def started(context: Context, *techniques: Technique, **values: float) -> tuple[nn.Module, Context, Choices]:
    """The reference after the techniques; each value is that of all choices whose names end in it."""
    space: dict[str, Any] = {}
    for technique in techniques:
        space.update(technique.choices(context.reference, example_inputs(context.data), TARGET))
    point = {name: values.get(name.rpartition(".")[2], choice.neutral) for name, choice in space.items()}
    own = Context(context.task, context.data, TARGET, context.reference, structure={"architecture": {}})
    model, choices = copy.deepcopy(context.reference), Choices(point)
    for technique in techniques:
        model = technique.apply(model, choices, own)
    return model, own, choices


def accuracy(model: nn.Module, context: Context) -> float:
    with torch.no_grad():
        return evaluate_metrics(model, context.task, context.data.test)["accuracy"]


def test_the_names_are_those_of_the_spec() -> None:
    assert METHODS == techniques.FACTORIZATIONS


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=KINDS)
def test_at_full_rank_the_outputs_are_the_same(layer: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, *shape)
    torch.testing.assert_close(factorized(layer, full_rank(layer))(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=KINDS)
def test_the_error_is_the_tail_of_the_singular_values(layer: Any, shape: tuple[int, ...]) -> None:
    first, second = factorized(layer, 3)
    matrix = as_matrix(layer).detach()
    inner = first.weight.detach().reshape(3, -1)
    outer = second.weight.detach().transpose(0, 1).reshape(3, -1)
    if matrix.shape[0] > layer.weight.shape[0]:  # a spatial one: (rank, output, column)
        product = torch.einsum("rc,rok->okc", inner, outer.reshape(3, layer.weight.shape[0], -1))
    else:
        product = torch.einsum("rc,ro->oc", inner, outer)
    tail = torch.linalg.svdvals(matrix)[3:].norm()
    torch.testing.assert_close((product.reshape(matrix.shape) - matrix).norm(), tail, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=KINDS)
def test_the_saving_rank_is_the_highest_that_saves(layer: Any, shape: tuple[int, ...]) -> None:
    def weights(rank: int) -> int:
        return sum(part.weight.numel() for part in factorized(layer, rank))

    highest = saving_rank(layer)
    assert weights(highest) < layer.weight.numel() <= weights(highest + 1)


def test_a_layer_stays_whole_where_nothing_is_saved(context: Context) -> None:
    model, own, _ = started(context, Factorize(), rank=0.9)
    assert [type(module) for module in model] == [type(module) for module in context.reference]
    assert "factorize" not in own.structure


def test_realised_ranks_are_recorded_and_a_checkpoint_is_restored_as_it_was_saved(context: Context) -> None:
    techniques = [Prune(), Factorize()]
    model, own, _ = started(context, *techniques, ratio=0.5, rank=0.3)
    left = own.structure["prune"]["widths"]["6"]
    assert own.structure["factorize"]["layers"]["6"] == {"rank": round(0.3 * left), "full": left}
    saved = save_checkpoint(model, json.loads(json.dumps(own.structure)), 0)
    fresh = Context(context.task, context.data, TARGET, context.reference)
    again, _ = restore(saved, techniques, fresh)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(again(x), model.eval()(x))
    assert fresh.structure == own.structure


def test_cost_is_that_of_the_two_layers(context: Context) -> None:
    example = example_inputs(context.data)
    model, _, _ = started(context, Factorize(include=("6",)), rank=0.25)
    saved = (
        cost.count(context.reference, example, {})["params"] - cost.count(model.eval(), example, {})["params"]
    )
    assert saved == 256 * 48 - 12 * (256 + 48)


def test_bits_and_sparsity_of_a_layer_are_those_of_both_factors(context: Context) -> None:
    quantize, sparsify = Quantize(exclude=("8",)), Sparsify(include=("6",))
    model, own, choices = started(
        context, Factorize(include=("6",)), sparsify, quantize,
        rank=0.25, sparsity=0.5, weight_bits=8, activation_bits=8,
    )  # fmt: skip
    assert {layer: bits for layer, bits in quantize.bits(model, choices).items() if "." in layer} == {
        "6.0": (8, 8),
        "6.1": (8, 8),
    }
    assert set(own.structure["sparsify"]["layers"]) == {"6.0", "6.1"}
    deployed = quantize.finalize(model.eval(), choices, own)
    assert {"6.0", "6.1"} <= {n for n, m in deployed.named_modules() if isinstance(m, QuantizedLayer)}
    assert accuracy(deployed, context) > 60


def test_a_network_that_is_no_graph_is_rebuilt_with_both_factors(context: Context) -> None:
    model, _, _ = started(context, Factorize(), rank=0.3)
    layers = json.loads(json.dumps(layers_to_json(model)))
    again = rebuild(net, {}, layers, model.state_dict())
    again.load_state_dict(model.state_dict(), assign=True)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_a_fixed_width_holds_for_both_factors(context: Context) -> None:
    quantize = Quantize(fixed={"6": 8})
    model, _, choices = started(context, Factorize(), quantize, rank=0.25)
    assert quantize.bits(model, choices) == {"6.0": (8, 8), "6.1": (8, 8)}


def test_layers_that_cannot_be_replaced_have_a_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.tied = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.tied.weight = self.words.weight
            self.looked_into, self.free = nn.Linear(8, 8), nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.grouped, self.thin = nn.Conv1d(8, 8, 3, groups=4, padding=1), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.attention(*[self.free(self.words(x))] * 3)[0] @ self.looked_into.weight
            return self.tied(self.grouped(x.transpose(1, 2)).transpose(1, 2)) + self.thin(x)

    example = torch.zeros(1, 4, dtype=torch.long)
    reasons = {row["name"]: row["reason"] for row in Factorize().describe(Odd().eval(), example)["layers"]}
    assert reasons == {
        "tied": "its weight is shared with another layer",
        "looked_into": "the network reads its weight, not its outputs alone",
        "free": "",
        "attention.out_proj": "NonDynamicallyQuantizableLinear may do more than its base class",
        "grouped": "a grouped convolution is thin already",
        "thin": "no rank has fewer parameters",
    }
    assert list(Factorize().choices(Odd().eval(), example, TARGET)) == [
        "factorize.free.rank",
        "factorize.method",
    ]


def test_low_rank_keeps_accuracy_with_a_fraction_of_the_weights(context: Context) -> None:
    """Denton et al. and Jaderberg et al.: most of what a trained layer does lies in few components."""
    small, _, _ = started(context, Factorize(exclude=("0", "8")), rank=0.4)
    assert sum(isinstance(module, Factors) for module in small.modules()) >= 2
    params = [sum(p.numel() for p in m.parameters()) for m in (small, context.reference)]
    assert params[0] < 0.6 * params[1]
    before = accuracy(context.reference, context)
    assert before > 93
    assert accuracy(small, context) > before - 5
    for parameter in small.parameters():
        parameter.requires_grad_(True)
    train(small, context.task, context.data.train, epochs=2, settings=TrainSettings(learning_rate=0.02))
    assert accuracy(small, context) > before - 1.5
