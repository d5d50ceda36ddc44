"""The contract tests hold for everything built in, and find what breaks them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import TinyTask
from torch import nn

from autoprune.compress.distill import Distill
from autoprune.compress.prune import Prune
from autoprune.compress.quantize import Quantize
from autoprune.compress.technique import Context, Technique
from autoprune.compress.transfer import Transfer
from autoprune.contracts import Broken, check_object
from autoprune.space import Choices, Options
from autoprune.targets import Target
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.task import ClassificationTask, make_data


@pytest.fixture(scope="module")
def target() -> Target:
    return OnnxRuntime(rounds=4, block_ms=4.0)


@pytest.mark.parametrize("technique", [Prune(), Quantize(), Distill()], ids=lambda t: t.name)
def test_every_technique_keeps_its_contract(technique: Technique, target: Target) -> None:
    assert [check for check in check_object(technique, TinyTask(), target) if not check.ok] == []


def computed() -> nn.Module:
    """A network with a weight that is computed from others."""
    network = TinyTask().model()
    nn.utils.parametrizations.weight_norm(network.get_submodule("block.0"))
    return network


@pytest.mark.parametrize("technique", [Quantize(), Transfer()], ids=lambda t: t.name)
def test_weights_that_are_computed_are_made_plain_before_as_in_a_search(
    technique: Technique, target: Target
) -> None:
    task = ClassificationTask(computed, TinyTask().data())
    assert [check for check in check_object(technique, task, target) if not check.ok] == []


def test_the_target_keeps_its_contract(target: Target) -> None:
    assert [check for check in check_object(target, TinyTask(), target) if not check.ok] == []


def test_a_task_keeps_its_contract(target: Target) -> None:
    assert [check for check in check_object(TinyTask, TinyTask(), target) if not check.ok] == []


class Careless(Technique):
    """Changes the outputs whatever is chosen, by a random amount."""

    name = "careless"

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Any]:
        return {"wrong.name": Options((0, 1), 0)}

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        return model


def test_a_careless_technique_is_found_out(target: Target) -> None:
    failed = [check.name for check in check_object(Careless, TinyTask(), target) if not check.ok]
    assert any("named after it" in name for name in failed)
    assert any("Neutral" in name for name in failed)
    assert any("same record" in name for name in failed)


class Unlearnable(TinyTask):
    """Its loss is NaN."""

    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        return super().loss(outputs, batch) * float("nan")


def test_a_task_without_a_finite_loss_is_found_out(target: Target) -> None:
    failed = [check for check in check_object(Unlearnable, TinyTask(), target) if not check.ok]
    assert any("nan" in check.message for check in failed)


def test_samplers_are_checked_and_strangers_refused(target: Target) -> None:
    from optuna.samplers import RandomSampler

    assert all(check.ok for check in check_object(RandomSampler(seed=0), TinyTask(), target))
    with pytest.raises(Broken, match="neither a task"):
        check_object(42, TinyTask(), target)


class TwoInputs(nn.Module):
    """Named inputs, and several outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector, self.head = nn.Linear(6, 32), nn.Linear(3, 32), nn.Linear(32, 4)

    def forward(self, image: torch.Tensor, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits and what they were made of."""
        hidden = torch.relu(self.image(image) + self.vector(vector))
        return {"logits": self.head(hidden), "hidden": hidden}


class TwoInputTask(TinyTask):
    """The sum of its inputs says which class."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        y = np.arange(120) % 4
        inputs = {
            "image": (rng.normal(size=(120, 6)) + y[:, None]).astype(np.float32),
            "vector": rng.normal(size=(120, 3)).astype(np.float32),
        }
        ClassificationTask.__init__(self, TwoInputs, make_data((inputs, y)))


def test_tasks_with_several_inputs_and_outputs_keep_their_contract(target: Target) -> None:
    assert [check for check in check_object(TwoInputTask(), TwoInputTask(), target) if not check.ok] == []


def test_the_target_runs_several_inputs_and_outputs(target: Target) -> None:
    failed = [check for check in check_object(target, TwoInputTask(), target) if not check.ok]
    assert [check for check in failed if "Computing the model twice" not in check.name] == []


def test_distillation_keeps_its_contract_with_several_inputs(target: Target) -> None:
    assert [check for check in check_object(Distill(), TwoInputTask(), target) if not check.ok] == []
