"""Tasks on which schedules that train in between are tried, and the recovery that they train by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sequence_networks import Separate
from sklearn.datasets import load_digits
from tiny_task import TinyTask
from torch import nn

from autoprune.candidate import untrained, weights_of
from autoprune.compress.technique import Context, Recovery, Technique
from autoprune.space import Choices
from autoprune.task import ClassificationTask, Data, evaluate_metrics, make_data
from autoprune.train import StepHook, TrainSettings, train

SETTINGS = TrainSettings(batch_size=64, learning_rate=0.1)


def mlp() -> nn.Module:
    """A multilayer perceptron for digits."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 40), nn.ReLU(), nn.Linear(40, 10)
    )


@cache
def digits() -> Data:
    """1,797 digits of 8×8 pixels."""
    x, y = load_digits(return_X_y=True)
    return make_data((x.astype(np.float32).reshape(-1, 1, 8, 8) / 8 - 1, y), shares=(0.3, 0.1))


class DigitsTask(ClassificationTask):
    """Which digit it is."""

    def __init__(self) -> None:
        super().__init__(mlp, digits)


class Encoder(Separate):
    """Attention and an MLP over tokens that come by name."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of three classes."""
        return super().forward(ids)


def sentences() -> Data:
    """Which of three words a sentence has more of."""
    rng = np.random.default_rng(0)
    y = np.arange(480) % 3
    ids = rng.integers(0, 11, (480, 6))
    ids[:, :2] = y[:, None]
    return make_data(({"ids": ids}, y), shares=(0.25, 0.1))


class EncoderTask(ClassificationTask):
    """Sentences, for `Encoder`."""

    def __init__(self) -> None:
        super().__init__(Encoder, sentences)


TASKS: dict[str, Callable[[], ClassificationTask]] = {
    "mlp": DigitsTask,
    "residual": TinyTask,
    "encoder": EncoderTask,
}
TARGET = SimpleNamespace(channel_multiple=1)


@cache
def trained(name: str, epochs: float = 6.0, seed: int = 0) -> tuple[ClassificationTask, nn.Module]:
    """A task and its reference; neither is changed by anybody."""
    task = TASKS[name]()
    torch.manual_seed(seed)
    model = task.model()
    train(model, task, task.data().train, epochs=epochs, settings=SETTINGS, seed=seed)
    return task, model.requires_grad_(False)


def context(name: str, seed: int = 0, **rest: Any) -> Context:
    """A fresh one for the task of this name."""
    task, reference = trained(name, seed=seed)
    structure = {"architecture": {}}
    return Context(
        task, task.data(), TARGET, reference, seed=seed, structure=structure, settings=SETTINGS, **rest
    )


def recovery(technique: Technique, where: Context, epochs: float) -> Recovery:
    """What the evaluator gives a technique, without the rest of it."""

    def descend(model: nn.Module, share: float, place: int, on_step: StepHook | None) -> None:
        split, seed = where.data.train, 1000 * (where.seed + 1) + place
        train(model, where.task, split, epochs=share * epochs, settings=SETTINGS, on_step=on_step, seed=seed)

    def look(model: nn.Module) -> float:
        return evaluate_metrics(model.eval(), where.task, where.data.val)["accuracy"]

    def initial(draw: int) -> nn.Module:
        return untrained([technique], where, where.seed + draw)

    return Recovery(descend, look, initial, epochs)


def made(
    technique: Technique, choices: dict[str, Any], where: Context, epochs: float = 4.0, rest: bool = True
) -> nn.Module:
    """The candidate of these choices as one technique makes it, trained for the rest of its epochs if wanted."""
    point = Choices(choices)
    where.recovery = recovery(technique, where, epochs) if technique.is_gradual(point) else None
    model = technique.apply(copy.deepcopy(where.reference).requires_grad_(True), point, where)
    left = where.recovery.left if where.recovery is not None else 1.0
    where.recovery = None
    if rest and left > 0:
        wrapped = technique.wrap(model, point, where)
        split, hook = where.data.train, lambda step, total: technique.on_step(model, step, total)
        train(
            wrapped,
            where.task,
            split,
            epochs=left * epochs,
            settings=SETTINGS,
            on_step=hook,
            seed=1 + where.seed,
        )
    return technique.finalize(model, point, where)


def point(technique: Technique, name: str, share: float, **rest: Any) -> dict[str, Any]:
    """The same share of everything that the technique may take, and the rest of its choices by their last names."""
    task, reference = trained(name)
    example = next(iter(task.data().train.batches(1))).inputs
    space = technique.choices(reference, example, TARGET)
    kinds = (".ratio", ".sparsity")
    values = {n: share if n.endswith(kinds) else choice.neutral for n, choice in space.items()}
    return {**values, **{f"{technique.name}.{n}": value for n, value in rest.items()}}


def accuracy(model: nn.Module, where: Context) -> float:
    """On the validation split, in percent."""
    return evaluate_metrics(model.eval(), where.task, where.data.val)["accuracy"]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are equal to the bit."""
    return weights_of(one) == weights_of(other)
