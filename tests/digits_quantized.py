"""The digits of scikit-learn by a small network, trained and then quantized: what is left of its accuracy."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn

from autoprune.compress.quantize import QUANTIZER, Quantize
from autoprune.compress.technique import Context
from autoprune.space import Choices
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.task import ArraySplit, ClassificationTask, Data
from autoprune.train import TrainSettings, train

SETTINGS = TrainSettings(batch_size=64, learning_rate=0.05)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


@cache
def _data() -> Data:
    digits = load_digits()
    x, y = (digits.images[:, None] / 16.0).astype("float32"), digits.target
    train_split, rest = ArraySplit(x[:1200], y[:1200]), ArraySplit(x[1200:], y[1200:])
    return Data(train_split, rest, rest)


@cache
def _trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model, task = network(), ClassificationTask(network, _data())
    train(model, task, _data().train, epochs=10, settings=SETTINGS)
    return model.state_dict()


@cache
def accuracy_after(quantizer: str, bits: int, epochs: float) -> float:
    """In percent, of weights at so many bits and activations at eight; every quantizer trains equally long."""
    data, technique = _data(), Quantize()
    task = ClassificationTask(network, data)
    model = network()
    model.load_state_dict(_trained())
    point = {f"quantize.{layer}.weight_bits": bits for layer in ("0", "5", "7")}
    point |= {f"quantize.{layer}.activation_bits": 8 for layer in ("0", "5", "7")}
    choices = Choices({**point, QUANTIZER: quantizer})
    context = Context(task, data, OnnxRuntime(), model)
    trained = technique.wrap(model, choices, context)
    train(
        trained,
        task,
        data.train,
        epochs=epochs,
        settings=SETTINGS,
        on_step=lambda step, total: technique.on_step(model, step, total),
    )
    deployed = technique.finalize(model.eval(), choices, context).eval()
    (batch,) = data.val.batches(len(data.val))
    with torch.no_grad():
        found = deployed(batch.inputs).argmax(1)
    return 100 * float((found == batch.targets).float().mean())
