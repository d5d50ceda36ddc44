"""The training loop: it learns, repeats itself under a seed, and stops with a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.forward import fast_layout
from autoprune.task import ArraySplit, Batch, ClassificationTask, evaluate_metrics, make_data
from autoprune.train import TrainSettings, recalibrate, steps_per_epoch, train


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


RNG = np.random.default_rng(0)
Y = np.arange(96) % 3
IMAGES = (RNG.normal(size=(96, 2, 6, 6)) + 2 * Y[:, None, None, None]).astype(np.float32)
SPLIT = ArraySplit(IMAGES, Y)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


TASK = ClassificationTask(network, (IMAGES, Y))
SETTINGS = TrainSettings(batch_size=16)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        TrainSettings(batch_size=16, momentum=0.0, learning_rate=0.2),
        TrainSettings(batch_size=16, optimizer="adamw", learning_rate=0.1),
        TrainSettings(batch_size=16, precision="bfloat16"),
        TrainSettings(batch_size=16, precision="auto"),
    ],
)
def test_it_learns(settings: TrainSettings) -> None:
    model = network()
    summary = train(model, TASK, SPLIT, epochs=8, settings=settings)
    assert summary.steps == 48
    assert summary.loss < 0.7
    assert evaluate_metrics(model, TASK, SPLIT)["accuracy"] > 90


def test_the_same_seed_gives_the_same_weights() -> None:
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, TASK, SPLIT, epochs=1, settings=SETTINGS, seed=seed)
    one, same, other = (model[0].weight for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_it_leaves_the_process_as_it_was() -> None:
    model = network()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(model, TASK, SPLIT, epochs=1, settings=SETTINGS)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training
    assert model[0].weight.is_contiguous()


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 3), (0.001, 1), (2.5, 15)])
def test_fractions_of_an_epoch_are_whole_steps(epochs: float, steps: int) -> None:
    seen = []
    train(
        network(),
        TASK,
        SPLIT,
        epochs=epochs,
        settings=SETTINGS,
        on_step=lambda step, total: seen.append((step, total)),
    )
    assert seen == [(step, steps) for step in range(1, steps + 1)]


def test_a_rest_too_small_for_a_batch_is_left_out() -> None:
    assert steps_per_epoch(SPLIT, 40) == 2
    assert steps_per_epoch(SPLIT, 1000) == 1
    sizes = []

    def note(outputs: torch.Tensor, batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch.targets))
        return loss

    train(network(), TASK, SPLIT, epochs=2, settings=TrainSettings(batch_size=40), loss=note)
    assert sizes == [40, 40, 40, 40]


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    moved: list[float] = []
    weight = network()
    before = weight[5].weight.detach().clone()

    def note(step: int, total: int) -> None:
        nonlocal before
        moved.append((weight[5].weight - before).abs().sum().item())
        before = weight[5].weight.detach().clone()

    # With a loss whose gradient never changes, each step is as long as the learning rate is high.
    train(
        weight,
        TASK,
        SPLIT,
        epochs=10,
        settings=TrainSettings(batch_size=16, momentum=0.0, weight_decay=0.0),
        loss=lambda outputs, batch, loss: weight[5].weight.sum(),
        on_step=note,
    )
    assert np.argmax(moved) in (2, 3, 4)
    assert moved[0] < 0.5 * max(moved)
    assert moved[-1] < 0.01 * max(moved)


def test_the_loss_hook_gets_outputs_batch_and_loss() -> None:
    def halved(outputs: torch.Tensor, batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        assert torch.equal(loss, TASK.loss(outputs, batch))
        assert outputs.dtype == torch.float32
        return loss * 0

    summary = train(
        network(), TASK, SPLIT, epochs=1, settings=TrainSettings(precision="bfloat16"), loss=halved
    )
    assert summary.loss == 0


def test_frozen_weights_norms_and_biases_do_not_decay() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    frozen, norm = model[0].weight.clone(), model[1].weight.detach().clone()
    linear = model[5].weight.detach().clone()
    settings = TrainSettings(batch_size=16, weight_decay=0.5)
    train(
        model, TASK, SPLIT, epochs=1, settings=settings, loss=lambda outputs, batch, loss: outputs.sum() * 0
    )
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model[1].weight, norm)
    assert model[5].weight.abs().sum() < linear.abs().sum()


def test_a_loss_that_is_not_finite_ends_it_with_the_step() -> None:
    def late(outputs: torch.Tensor, batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        late.calls += 1  # type: ignore[attr-defined]
        return loss * (float("nan") if late.calls == 4 else 1.0)  # type: ignore[attr-defined]

    late.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(
        TaskError, match=r"the loss is nan at step 4 of training \(learning rate up to 0.05\)"
    ):
        train(network(), TASK, SPLIT, epochs=1, settings=SETTINGS, loss=late)


def test_time_can_end_the_cycle() -> None:
    settings = TrainSettings(batch_size=16, max_seconds=0.2)
    summary = train(network(), TASK, SPLIT, epochs=10_000, settings=settings)
    assert 1 <= summary.steps < 10_000
    assert summary.seconds < 2


class Views(nn.Module):
    """Flattens with `view`, which only contiguous tensors allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.head(x.view(x.shape[0], -1))


def test_models_that_flatten_with_view_are_trained_too() -> None:
    images = torch.from_numpy(IMAGES)
    assert fast_layout(network(), images) == torch.channels_last
    assert fast_layout(Views(), images) == torch.contiguous_format
    assert fast_layout(nn.Linear(3, 3), torch.zeros(2, 3)) == torch.contiguous_format
    assert train(Views(), TASK, SPLIT, epochs=1, settings=SETTINGS).steps == 6


@pytest.mark.parametrize("wrap", [lambda y: {"logits": y, "aux": (y, 3)}, lambda y: (y, [y])])
def test_nested_outputs_reach_the_loss_as_float32(wrap: object) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> object:
            return wrap(self.inner(x))  # type: ignore[operator]

    class Task(ClassificationTask):
        def loss(self, outputs: object, batch: Batch) -> torch.Tensor:
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]  # type: ignore[index]
            assert logits.dtype == torch.float32
            return super().loss(logits, batch)

    task = Task(network, (IMAGES, Y))
    summary = train(Nested(), task, SPLIT, epochs=1, settings=TrainSettings(precision="bfloat16"))
    assert summary.steps == 1


def test_recalibration_finds_the_statistics_of_the_data() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5))
    model[0].running_mean.fill_(100.0)
    recalibrate(model, SPLIT, batch_size=32, batches=3)
    assert model[0].running_mean.numpy() == pytest.approx(IMAGES.mean((0, 2, 3)), abs=1e-4)
    assert model[0].momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_recalibration_touches_no_weight_and_needs_no_norm() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    recalibrate(model, SPLIT, batch_size=16, batches=2)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert recalibrate(nn.Linear(2, 2), SPLIT, batch_size=16, batches=2).training is False


class Embeds(nn.Module):
    """Token ids and their mask, by name or position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.linear((self.embed(ids) * mask[..., None]).sum(1))


IDS = np.stack([Y + 1, np.zeros_like(Y)], 1)
USED = IDS > 0


@pytest.mark.parametrize("inputs", [{"ids": IDS, "mask": USED}, (IDS, USED)])
def test_it_learns_from_several_inputs(inputs: Any) -> None:
    torch.manual_seed(0)
    model, split = Embeds(), ArraySplit(inputs, Y)
    task = ClassificationTask(Embeds, make_data((inputs, Y)))
    train(model, task, split, epochs=10, settings=TrainSettings(batch_size=16, learning_rate=0.2))
    assert evaluate_metrics(model, task, split)["accuracy"] == 100


def test_recalibration_takes_several_inputs() -> None:
    class Normed(Embeds):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Sequential(self.linear, nn.BatchNorm1d(3))

    model = recalibrate(Normed(), ArraySplit({"ids": IDS, "mask": USED}, Y), batch_size=16, batches=2)
    assert model.linear[1].running_mean.abs().sum() > 0


@pytest.mark.slow
def test_a_compiled_training_learns_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)
    monkeypatch.setattr("autoprune.forward.Forward.__init__.__kwdefaults__", {"worth": 0.0})
    model = nn.Linear(2, 3)
    split = ArraySplit(np.eye(2, dtype=np.float32)[Y % 2], Y % 2)
    settings = TrainSettings(batch_size=16, learning_rate=0.5, compile=True)
    summary = train(model, TASK, split, epochs=4, settings=settings)
    assert "compiled: a step takes" in summary.compiled
    assert evaluate_metrics(model, TASK, split)["accuracy"] == 100


def test_compiling_is_noted_only_where_asked_for() -> None:
    assert train(network(), TASK, SPLIT, epochs=1, settings=SETTINGS).compiled == ""
    note = train(network(), TASK, SPLIT, epochs=2, settings=replace(SETTINGS, compile=True)).compiled
    assert note.endswith("too few to pay for it")
