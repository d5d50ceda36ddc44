"""Sparsity as a technique: any layer, zeros that stay zeros from the first step to the stored file."""

from __future__ import annotations

import copy
import json
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.compress.quantize import Quantize
from autoprune.compress.sparsify import CRITERIA, PATTERNS, SCHEDULES, Sparsify
from autoprune.compress.sparsity import zeros_in
from autoprune.compress.store import Store, coding_of
from autoprune.compress.technique import Context
from autoprune.deployed import stored_bytes, weight_codes
from autoprune.errors import ModelError
from autoprune.space import Choices, Options
from autoprune.spec import techniques
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.task import ClassificationTask
from autoprune.train import TrainSettings, train

EVERY = Sparsify(
    pattern=Options(PATTERNS, "unstructured"),
    criterion=Options(CRITERIA, "l1"),
    schedule=Options(tuple(SCHEDULES), "one_shot"),
)
TARGET = SimpleNamespace(channel_multiple=1)


class Odd(nn.Module):
    """A weight that no layer holds, control flow that no graph can hold, and a layer of six inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.six = nn.Linear(8, 6), nn.Linear(6, 16)
        self.mix = nn.Parameter(torch.randn(16, 16) / 4)
        self.shift = nn.Parameter(torch.zeros(1, 16))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.six(torch.relu(self.first(x)))
        x = x @ self.mix if float(x.detach().sum()) > -1e9 else x
        return self.last(torch.relu(x + self.shift))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4, 3),
    )  # fmt: skip


def odd() -> nn.Module:
    torch.manual_seed(0)
    return Odd()


def context(model: nn.Module) -> Context:
    draw = np.random.default_rng(0)
    shape = (8,) if isinstance(model, Odd) else (2, 6, 6)
    x, y = draw.normal(size=(96, *shape)).astype(np.float32), np.arange(96) % 3
    x[:, :3] += y[(...,) + (None,) * len(shape)]
    task = ClassificationTask(lambda: model, (x, y))
    return Context(task, task.data(), OnnxRuntime(), model)


def point(model: nn.Module, sparsity: float, **rest: Any) -> Choices:
    space = EVERY.choices(model, None, TARGET)
    shares = {name: sparsity for name in space if name.endswith(".sparsity")}
    rest = {f"sparsify.{name}": value for name, value in rest.items()}
    return Choices({**{name: choice.neutral for name, choice in space.items()}, **shares, **rest})


def realised(record: dict[str, Any]) -> dict[str, float]:
    return {layer: plan["realised"] for layer, plan in record["layers"].items()}


def test_the_names_are_those_of_the_spec() -> None:
    assert (PATTERNS, CRITERIA) == (techniques.SPARSITY_PATTERNS, techniques.SPARSITY_CRITERIA)
    assert tuple(SCHEDULES) == techniques.SPARSITY_SCHEDULES


def test_weights_without_a_layer_are_choices_and_the_rest_has_reasons() -> None:
    assert list(EVERY.choices(odd(), None, TARGET)) == [
        *("sparsify.mix.sparsity", "sparsify.first.sparsity", "sparsify.six.sparsity"),
        *("sparsify.pattern", "sparsify.criterion", "sparsify.schedule"),
    ]
    described = {row["name"]: row for row in EVERY.describe(odd(), None)["layers"]}
    assert described["shift"]["reason"] == "a single vector"
    assert described["last.parametrizations.weight.original1"]["reason"].startswith("parametrized")
    assert described["six"]["misfits"]["2:4"] == "needs inputs in groups of 4, the layer reads 6"
    assert "axis that is read" in described["mix"]["misfits"]["4:8"]
    assert described["first"] == {"name": "first", "weights": 48, "misfits": {}, "reason": ""}


def test_a_layer_that_no_pattern_fits_has_no_choice() -> None:
    only = Sparsify(pattern=Options(("2:4",), "2:4"))
    assert "sparsify.six.sparsity" not in only.choices(odd(), None, TARGET)
    with pytest.raises(
        ModelError, match="no layer of the model can have it: 2:4 needs inputs in groups of 4"
    ):
        only.choices(nn.Sequential(nn.Linear(6, 6)), None, TARGET)


def test_layers_are_included_and_excluded() -> None:
    chosen = Sparsify(include=("first", "six"), exclude=("six",)).choices(odd(), None, TARGET)
    assert [name for name in chosen if name.endswith(".sparsity")] == ["sparsify.first.sparsity"]


def test_neutral_choices_change_nothing_and_read_no_more() -> None:
    model, choices = convolutional(), point(convolutional(), 0.0)
    where = context(model)
    same = EVERY.apply(copy.deepcopy(model), choices, where)
    assert where.structure == {} and all(name.endswith(".sparsity") for name in choices.read)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_sparsity_for_the_network_is_met_by_all_layers_together(schedule: str) -> None:
    model = convolutional()
    technique = Sparsify(
        criterion=Options(("lamp",), "lamp"), schedule=Options((schedule,), schedule), scope="global"
    )
    space = technique.choices(model, None, TARGET)
    assert list(space) == [f"sparsify.{name}" for name in ("sparsity", "pattern", "criterion", "schedule")]
    where, choices = (
        context(model),
        Choices({n: c.neutral for n, c in space.items()} | {"sparsify.sparsity": 0.7}),
    )
    made = technique.finalize(technique.apply(model, choices, where), Choices({}), where)
    weights = [parameter for parameter in made.parameters() if parameter.dim() > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    shares = {round(zeros_in(weight), 2) for weight in weights}
    assert zeros == round(0.7 * sum(weight.numel() for weight in weights))
    assert len(shares) == 3 and max(shares) < 1.0
    assert set(realised(where.structure["sparsify"]).values()) == {
        round(zeros_in(weight), 6) for weight in weights
    }


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_shot_zeroes_the_share_of_each_layer(criterion: str) -> None:
    model = convolutional()
    where = context(model)
    made = EVERY.apply(model, point(model, 0.75, criterion=criterion), where)
    assert all(zeros_in(p) == pytest.approx(0.75, abs=0.02) for p in made.parameters() if p.dim() > 1)
    assert json.loads(json.dumps(where.structure)) == where.structure


def test_taylor_zeroes_what_the_loss_does_not_depend_on() -> None:
    model = odd()
    with torch.no_grad():
        model.six.weight[:, 2] = 1e-7
        model.first.weight[2] = 5.0  # large, and read by almost nothing
    where = context(model)
    EVERY.apply(model, point(model, 1 / 6, criterion="taylor"), where)
    assert not model.first.weight[2].any()


def test_a_pattern_is_put_where_it_fits_and_the_reason_noted_where_not() -> None:
    model = odd()
    where = context(model)
    made = EVERY.finalize(EVERY.apply(model, point(model, 0.4, pattern="2:4"), where), Choices({}), where)
    layers = where.structure["sparsify"]["layers"]
    assert (made.first.weight.view(6, 2, 4) != 0).sum(-1).eq(2).all()
    assert layers["six"]["reason"] == "2:4 needs inputs in groups of 4, the layer reads 6"
    assert realised(where.structure["sparsify"])["six"] == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("build", [convolutional, odd])
def test_zeros_hold_through_training_and_a_checkpoint(schedule: str, build: Any) -> None:
    model = build()
    where, choices = context(model), point(model, 0.6, schedule=schedule)
    model = EVERY.apply(model, choices, where)
    for _ in range(2):  # the second stretch starts from a checkpoint
        again = build()
        again.load_state_dict(model.state_dict())
        model = EVERY.wrap(again, Choices({}), where)
        settings, on_step = TrainSettings(batch_size=16), partial(EVERY.on_step, model)
        train(model, where.task, where.data.train, epochs=2, settings=settings, on_step=on_step)
        assert EVERY.finalize(model, Choices({}), where) is model
        assert set(realised(where.structure["sparsify"]).values()) <= {
            round(round(0.6 * p.numel()) / p.numel(), 6) for p in model.parameters() if p.dim() > 1
        }


@pytest.mark.parametrize("schedule", ["agp", "dynamic_surgery", "movement"])
def test_untrained_candidates_are_measured_with_their_zeros_and_keep_their_weights(schedule: str) -> None:
    model = convolutional()
    where = context(model)
    model = EVERY.apply(model, point(model, 0.6, schedule=schedule), where)
    deployed = EVERY.finalize(model, Choices({}), where)
    assert zeros_in(model[0].weight) == 0.0 and zeros_in(deployed[0].weight) == pytest.approx(0.6, abs=0.01)


def test_zeros_are_zero_codes_and_make_the_stored_file_smaller() -> None:
    model = convolutional()
    where = context(model)
    model = EVERY.apply(model, point(model, 0.9), where)
    bits = {f"quantize.{layer}.weight_bits": 8 for layer in ("0", "3", "6")}
    choices = Choices(
        {**bits, **{n.replace("weight", "activation"): 8 for n in bits}, "quantize.quantizer": "ptq"}
    )
    deployed = Quantize().finalize(EVERY.finalize(model, choices, where), choices, where)
    assert all(zeros_in(codes.codes) >= 0.88 for codes in weight_codes(deployed).values())
    assert coding_of(where.structure) == "sparse"
    assert stored_bytes(deployed, "sparse") < stored_bytes(deployed)


def test_the_coding_is_a_choice_that_is_recorded() -> None:
    model = convolutional()
    where, technique = context(model), Store(Options(("none", "huffman"), "none"))
    assert list(technique.choices(model, None, TARGET)) == ["store.coding"]
    assert technique.apply(model, Choices({"store.coding": "huffman"}), where) is model
    assert coding_of(where.structure) == "huffman"
    assert coding_of({}) == coding_of({"store": {"coding": "none"}}) == "none"
