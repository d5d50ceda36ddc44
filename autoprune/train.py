"""The one training loop.

Trains the reference, fine-tunes every candidate at every rung and finishes the chosen one. Each call is one
full cycle of the learning rate, a short linear warm-up and a cosine to zero (SGDR, Loshchilov & Hutter 2017),
so that the results of a rung are those of a finished training and can be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.forward import Forward, autocast, fast_layout, half_precision, laid_out, move
from autoprune.frozen import rest
from autoprune.task import Batch, Split, Task
from autoprune.tensors import call, map_tensors

LossHook = Callable[[Any, Batch, torch.Tensor], torch.Tensor]
StepHook = Callable[[int, int], None]
WARM_UP = 0.05
CLIP_NORM = 5.0


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        batch_size: examples per step.
        learning_rate: the peak of the cycle.
        weight_decay: pulls the weights of layers to zero; biases and norms are left out.
        momentum: of SGD (Nesterov); AdamW keeps its own.
        optimizer: `sgd` or `adamw`.
        precision: of the forward pass. `bfloat16` is about 1.6 times faster on processors that compute in it,
            and several times slower on others; `auto` uses it on the former only, and half precision on a GPU.
            `float16` is for GPUs (gradients are scaled), and float32 on a processor. Weights stay float32.
        compile: compile the network with torch where what is left of the training pays for it. Results then
            depend, in the last digits, on the speed of the machine.
        device: `cpu`, or `cuda`: the network moves there for the training, and back.
        max_seconds: end the cycle after so much time, the learning rate brought down in step. Results then
            depend on the speed of the machine.
    """

    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9
    optimizer: Literal["sgd", "adamw"] = "sgd"
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    compile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    max_seconds: float | None = None


@dataclass(frozen=True)
class TrainSummary:
    """What a call of `train` did.

    Attributes:
        steps: optimizer steps.
        seconds: wall time.
        loss: mean of the last tenth of the steps.
        compiled: what came of `compile`, in words; empty when it was not asked for.
    """

    steps: int
    seconds: float
    loss: float
    compiled: str = ""


def train(
    model: nn.Module,
    task: Task,
    split: Split,
    *,
    epochs: float,
    settings: TrainSettings | None = None,
    loss: LossHook | None = None,
    on_step: StepHook | None = None,
    along: Iterable[nn.Parameter] = (),
    seed: int = 0,
) -> TrainSummary:
    """Train `model` in place for one cycle of the learning rate, and leave it in eval mode.

    The same seed on one thread gives the same weights.

    Args:
        model: what is trained: its parameters that require gradients. The others, and the statistics of a
            BatchNorm layer between them, stay as they are.
        task: gives the loss.
        split: what is trained on, shuffled and augmented anew in each epoch.
        epochs: passes over the split; fractions are welcome, at least one step is taken.
        settings: how; the defaults where None.
        loss: the loss to descend, given outputs, batch and the task's own loss; called under the same
            precision as the model.
        on_step: called after each optimizer step with its number (from 1) and the total.
        along: parameters outside of the model that are trained with it.
        seed: of shuffling, augmentation and dropout.

    Raises:
        TaskError: the loss is no longer finite, and the message names the step; or nothing is left to train.
    """
    settings = settings or TrainSettings()
    total = max(1, round(epochs * steps_per_epoch(split, settings.batch_size)))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if settings.device == "cuda" else []):
        torch.manual_seed(seed)
        others = nn.ParameterList(along)
        move(model, settings.device)
        move(others, settings.device)
        try:
            cycle = _Cycle(model, task, settings, loss, list(others))
            return cycle.run(_endless(split, settings.batch_size, seed), total, on_step)
        finally:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            move(model, "cpu")
            move(others, "cpu")
            model.eval()


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """How many full batches a pass over the split has; a smaller rest, bad for BatchNorm, is left out."""
    return max(1, len(split) // batch_size)


def _endless(split: Split, batch_size: int, seed: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        batches = split.batches(batch_size, shuffle=seed * 10_007 + epoch)
        yield from (
            batch for _, batch in zip(range(steps_per_epoch(split, batch_size)), batches, strict=False)
        )
        epoch += 1


def _task_loss(outputs: Any, batch: Batch, loss: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return loss


class _Cycle:
    """One cycle of the learning rate: the optimizer, the schedule and the step."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainSettings,
        loss: LossHook | None,
        along: list[nn.Parameter],
    ) -> None:
        self.model, self.task, self.settings = model, task, settings
        self.hook = loss or _task_loss
        self.optimizer = _optimizer(model, along, settings)
        self.forward = Forward(model, compile=settings.compile)
        self.precision = autocast(settings.precision, settings.device)
        half = half_precision(settings.precision, settings.device)
        self.scaler = torch.amp.GradScaler(settings.device, enabled=half is torch.float16)

    def run(self, batches: Iterator[Batch], total: int, on_step: StepHook | None) -> TrainSummary:
        losses: list[float] = []
        start = time.perf_counter()
        progress = 0.0
        layout = None
        while progress < 1.0:
            batch = map_tensors(lambda tensor: tensor.to(self.settings.device), next(batches))
            if layout is None:
                layout = self._prepare(batch)
            # The middle of the step: neither the first nor the last one is wasted on a rate of zero.
            self._set_rate(progress + 0.5 / total)
            losses.append(
                self._step(Batch(laid_out(batch.inputs, layout), batch.targets), len(losses), total)
            )
            progress = self._progress(len(losses) / total, time.perf_counter() - start)
            if on_step is not None:
                on_step(len(losses), total)
        self.forward.close()
        last = losses[-max(1, len(losses) // 10) :]
        seconds = time.perf_counter() - start
        return TrainSummary(len(losses), seconds, sum(last) / len(last), self.forward.note)

    def _prepare(self, batch: Batch) -> torch.memory_format:
        layout = fast_layout(self.model, batch.inputs)
        self.model.to(memory_format=layout)  # type: ignore[call-overload]
        self.model.train()
        rest(self.model)
        return layout

    def _progress(self, share: float, seconds: float) -> float:
        limit = self.settings.max_seconds
        return share if limit is None else max(share, seconds / limit)

    def _set_rate(self, progress: float) -> None:
        factor = min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def _step(self, batch: Batch, done: int, total: int) -> float:
        start = time.perf_counter()
        try:
            value = self._descend(batch, done)
        except Exception as error:
            if not self.forward.gave_up(error):
                raise
            value = self._descend(batch, done)
        self.forward.took(time.perf_counter() - start, total - done - 1)
        return value

    def _descend(self, batch: Batch, done: int) -> float:
        with self.precision:
            outputs = self.forward(batch.inputs)
            loss = self.hook(outputs, batch, self.task.loss(outputs, batch))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TaskError(
                f"the loss is {value} at step {done + 1} of training (learning rate up to "
                f"{self.settings.learning_rate:g}): lower train.learning_rate, or check the task's loss()"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value


def _optimizer(model: nn.Module, along: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TaskError(
            "every parameter of the model is frozen (requires_grad=False): unfreeze some, or set train.epochs and "
            "search.rungs to 0"
        )
    trained += along
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


@torch.no_grad()
def recalibrate(model: nn.Module, split: Split, *, batch_size: int, batches: int, seed: int = 0) -> nn.Module:
    """Estimate the statistics of BatchNorm layers anew, as plain averages over a few batches.

    Channels that were cut shift what the layers behind them see; this mends most of it without a gradient.

    Returns:
        The model itself, changed in place, in eval mode.
    """
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    if not norms:
        return model
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for _, batch in zip(range(batches), _endless(split, batch_size, seed), strict=False):
        call(model, batch.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
