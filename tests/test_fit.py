"""Ready trainings: a real Lightning module, and the Trainer of transformers where it is installed."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.errors import MissingExtra, TaskError
from autoprune.fit import lightning_fit, trainer_fit
from autoprune.stretch import stretch
from autoprune.task import ClassificationTask, make_data
from autoprune.train import TrainSettings

Y = np.arange(96) % 3
X = (np.random.default_rng(0).normal(size=(96, 4)) + 2 * np.eye(4)[Y]).astype(np.float32)
DATA = make_data((X, Y))
SETTINGS = TrainSettings(batch_size=8, learning_rate=0.02)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def accuracy(model: nn.Module) -> float:
    batch = next(DATA.val.batches(100))
    return float((model(batch.inputs).argmax(1) == batch.targets).float().mean())


def module_class() -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class Lit(lightning.LightningModule):
        steps: tuple[int, ...] = ()

        def __init__(self, network: nn.Module, learning_rate: float, budget: Any) -> None:
            super().__init__()
            self.network, self.learning_rate, self.budget = network, learning_rate, budget

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            Lit.steps = (*Lit.steps, len(x))
            return F.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), self.learning_rate)

    return Lit


class Own(ClassificationTask):
    """Trains by the `fit` it is given."""

    def __init__(self, fit: Any, data: Any = DATA) -> None:
        super().__init__(network, data)
        self.fit = fit


def test_a_lightning_module_trains_the_network() -> None:
    lit = module_class()
    model = network()
    stretch(model, Own(lightning_fit(lit, accelerator="cpu")), DATA, epochs=9.5, settings=SETTINGS)
    assert accuracy(model) > 0.8
    assert len(lit.steps) == round(9.5 * (len(DATA.train) // 8))
    assert set(lit.steps) == {8}
    assert logging.getLogger("lightning.pytorch").level != logging.WARNING


def test_a_lightning_module_gets_the_loader_it_was_written_for() -> None:
    lit = module_class()
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 24)
    data = make_data(loader, (X, Y), (X, Y))
    model = network()
    stretch(model, Own(lightning_fit(lit, accelerator="cpu"), data), data, epochs=1, settings=SETTINGS)
    assert set(lit.steps) == {24}
    assert len(lit.steps) <= 12


def test_time_ends_a_lightning_training() -> None:
    lit = module_class()
    settings = TrainSettings(batch_size=8, max_seconds=0.3)
    stretch(network(), Own(lightning_fit(lit, accelerator="cpu")), DATA, epochs=10_000, settings=settings)
    assert 0 < len(lit.steps) < 50_000


def test_lightning_needs_a_lightning_module() -> None:
    pytest.importorskip("lightning.pytorch")
    with pytest.raises(TaskError, match="got Sequential, expected a LightningModule around the network"):
        stretch(network(), Own(lightning_fit(nn.Sequential)), DATA, epochs=1, settings=SETTINGS)


def test_a_fit_can_be_an_attribute_of_a_class() -> None:
    class Mine(ClassificationTask):
        fit = lightning_fit(module_class(), accelerator="cpu")

    stretch(network(), Mine(network, DATA), DATA, epochs=1, settings=SETTINGS)


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is not None, reason="accelerate is installed")
def test_what_the_trainer_of_transformers_needs_is_said() -> None:
    with pytest.raises(MissingExtra, match="accelerate is not installed: pip install accelerate"):
        stretch(network(), Own(trainer_fit()), DATA, epochs=1, settings=SETTINGS)


def test_the_trainer_of_transformers_trains_the_network() -> None:
    pytest.importorskip("accelerate")
    model = network()
    fit = trainer_fit(lr_scheduler_type="constant", optim="adamw_torch", use_cpu=True)
    stretch(model, Own(fit), DATA, epochs=10, settings=SETTINGS)
    assert accuracy(model) > 0.8
