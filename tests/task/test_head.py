"""The head of a network is found whatever its name, made anew, and refused where that cannot be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from autoprune.errors import ModelError, TaskError
from autoprune.task import ClassificationTask, RegressionTask, load_task
from autoprune.task.head import Head, give_head, last_layers
from autoprune.task.output import logits_of

IMAGE, ROW, IDS = torch.randn(1, 3, 8, 8), torch.randn(1, 6), torch.randint(0, 9, (1, 5))


class Odd(nn.Module):
    """A head that is made first, with layers that run before and beside it, and functions behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.zzz = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(()))
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(x)
        return {"features": features, "logits": torch.log_softmax(self.scale * self.zzz(features), -1)}


class Convolutional(nn.Module):
    """Scores of every pixel, averaged: the head is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(torch.relu(self.score(x)), 1).flatten(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(9, 8), nn.LSTM(8, 8, batch_first=True)
        self.out = parametrizations.weight_norm(nn.Linear(8, 4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embed(ids))[0][:, -1])


class Two(nn.Module):
    """The sum of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) + self.two(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class Inside(Functional):
    """The same beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), self.before(x)


class Fixed(nn.Module):
    """Its code counts on eight outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x).view(-1, 4, 2).sum(2)


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 4)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


def shape(model: nn.Module, inputs: Any) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(logits_of(model.eval()(inputs)).shape)


@pytest.mark.parametrize(
    ("make", "inputs", "name"),
    [(Odd, ROW, "zzz"), (Convolutional, IMAGE, "score"), (Recurrent, IDS, "out")],
)
def test_the_last_layer_is_found_and_replaced(make: Any, inputs: torch.Tensor, name: str) -> None:
    torch.manual_seed(0)
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    give_head(model, Head(12), inputs, logits_of)
    assert model.training
    assert shape(model, inputs) == (1, 12)
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before.get(key, ROW))
    }
    assert changed and all(key.startswith(f"{name}.") for key in changed)


def test_a_head_with_as_many_outputs_stays() -> None:
    model = Odd()
    head = model.zzz
    give_head(model, Head(4), ROW, logits_of)
    assert model.zzz is head


def test_outputs_that_do_not_count_are_not_followed() -> None:
    assert last_layers(Odd(), ROW, lambda outputs: [outputs["logits"]]) == ["zzz"]
    assert last_layers(Odd(), ROW) == ["body.1", "zzz"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Two, "several layers, one, two; name it"),
        (Functional, "the network itself, is a Functional, expected a linear layer or a convolution"),
        (lambda: nn.Sequential(nn.Flatten(), Inside()), "a function makes the outputs from '1.weight'"),
        (Fixed, "its head 'out'.*on an example of the data of shape"),
        (Blind, "no layer is met .* without gradients"),
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
            "'1', is a BatchNorm1d, expected a linear",
        ),
        (lambda: nn.Linear(6, 4), "nothing else: put it into an nn.Sequential"),
        (
            lambda: nn.Sequential(nn.Linear(7, 4)),
            r"on an example of the data of shape \(1, 6\), raises RuntimeError",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        give_head(make(), Head(5), ROW, logits_of)


def test_a_head_can_be_named() -> None:
    model = Blind()
    give_head(model, Head(5, "out"), ROW, logits_of)
    assert shape(model, ROW) == (1, 5)
    with pytest.raises(ModelError, match="no layer 'ouut'; did you mean 'out'"):
        give_head(model, Head(5, "ouut"), ROW, logits_of)


def test_the_search_for_it_draws_no_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 3))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    give_head(model, Head(3), ROW, logits_of)
    assert torch.equal(torch.get_rng_state(), before)


def test_transformers_learn_how_many_labels_there_are() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, vocab_size=9))
    give_head(model, Head(7), IDS, logits_of)
    assert (model.config.num_labels, model.num_labels, model.classifier.out_features) == (7, 7, 7)


def rows(classes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32), np.arange(40) % classes


def hidden(width: int = 8, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, classes))


def test_a_task_gives_every_architecture_its_head() -> None:
    task = ClassificationTask(hidden, rows(5), classes=5)
    assert task.model()[2].out_features == task.model(width=4)[2].out_features == 5
    assert task.model(width=4)[0].out_features == 4
    named = RegressionTask(hidden, (rows(2)[0], np.zeros((40, 2))), head={"layer": "2", "outputs": 2})
    assert named.model()[2].out_features == 2


def test_a_kind_of_task_takes_it_from_a_spec() -> None:
    source = {"model": "torch.nn:Linear?in_features=6&out_features=4", "data": rows(3)}
    with pytest.raises(ModelError, match="nothing else"):
        load_task("classification", None, {**source, "classes": 3}).model()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"classes": 0}, "classes: got 0, expected a whole number"),
        ({"classes": True}, "classes: got True"),
        ({"classes": "ten"}, "classes: got 'ten'"),
        ({"head": 3}, "head: got 3, expected {outputs: number} or"),
        ({"head": {"layer": "2"}}, "head: got"),
        ({"head": {"outputs": 3, "name": "2"}}, "head: got"),
        ({"head": {"outputs": 3, "layer": 2}}, "head.layer: got 2"),
        ({"classes": 3, "head": {"outputs": 3}}, "got both"),
    ],
)
def test_arguments_that_say_nothing_are_refused_at_once(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(TaskError, match=reason):
        ClassificationTask(hidden, rows(3), **arguments)


def test_a_task_with_a_model_of_its_own_decides_itself() -> None:
    class Own(ClassificationTask):
        def model(self, **architecture: Any) -> nn.Module:
            return hidden()

    with pytest.raises(TaskError, match="Own has a model"):
        Own(hidden, rows(3), classes=3)
