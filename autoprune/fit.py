"""Ready trainings for a task's `fit`: by Lightning, and by the Trainer of transformers.

    class Mine(ClassificationTask):
        fit = lightning_fit(MyLightningModule, precision="bf16-mixed")

What a `fit` of one's own looks like is said in `autoprune.task.TrainsItself`.
"""

from __future__ import annotations

import inspect
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from autoprune.errors import MissingExtra, TaskError
from autoprune.task import Batch, Budget, Data, LoaderSplit, Split
from autoprune.tensors import call
from autoprune.train import steps_per_epoch


class _Passes(IterableDataset[Any]):
    """Passes over a split in full batches, each shuffled anew; `form` makes of a batch what the loop expects."""

    def __init__(self, split: Split, budget: Budget, form: Callable[[Batch], Any]) -> None:
        self.split, self.budget, self.form = split, budget, form
        self.passes = 0

    def __len__(self) -> int:
        return steps_per_epoch(self.split, self.budget.batch_size)

    def __iter__(self) -> Iterator[Any]:
        seed = self.budget.seed * 10_007 + self.passes
        self.passes += 1
        batches = self.split.batches(self.budget.batch_size, shuffle=seed)
        return map(self.form, islice(batches, len(self)))


def _loader(split: Split, budget: Budget, form: Callable[[Batch], Any]) -> DataLoader[Any]:
    return DataLoader(_Passes(split, budget, form), batch_size=None)


def _steps(split: Split, budget: Budget) -> int:
    return max(1, round(budget.epochs * steps_per_epoch(split, budget.batch_size)))


# -- Lightning -------------------------------------------------------------------------------------------------------


class LightningFit:
    """A `fit` that trains by Lightning; see `lightning_fit`."""

    def __init__(self, module: Callable[..., Any], trainer_arguments: dict[str, Any]) -> None:
        self.module, self.trainer_arguments = module, trainer_arguments

    def __call__(self, model: nn.Module, data: Data, budget: Budget) -> nn.Module:
        """Train `model` inside of the LightningModule; its optimizers, schedules, callbacks and loss hold."""
        wrapped = self.module(model, **_wanted(self.module, budget))
        steps, split = _steps(data.train, budget), data.train
        # A loader of the user's own is what the module was written for: it gets that, as it is.
        loader = split.loader if isinstance(split, LoaderSplit) else _loader(split, budget, tuple)
        limits: dict[str, Any] = {"max_steps": steps, "max_epochs": math.ceil(budget.epochs)}
        if budget.seconds is not None:
            limits["max_time"] = {"seconds": budget.seconds}
        with _quiet("lightning.pytorch", "pytorch_lightning"), tempfile.TemporaryDirectory() as folder:
            settings = {**_LIGHTNING, **limits, "default_root_dir": folder, **self.trainer_arguments}
            _lightning_of(wrapped).Trainer(**settings).fit(wrapped, loader)
        return model


_LIGHTNING = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "devices": 1,
}


def lightning_fit(module: Callable[..., Any], **trainer_arguments: Any) -> LightningFit:
    """A `fit` for a task that trains by Lightning (`pip install lightning`).

    Args:
        module: a LightningModule class, or a function that makes one, called with the network to train. An argument
            called `budget` or `learning_rate` is given that as well. Its `training_step` gets the batches of the
            task's own loader, or pairs `(inputs, targets)` where the data lie in arrays. For distillation it calls
            `budget.loss(outputs, batch)`.
        trainer_arguments: for `lightning.Trainer`, over ours.
    """
    return LightningFit(module, trainer_arguments)


def _wanted(function: Callable[..., Any], budget: Budget) -> dict[str, Any]:
    offered = {"budget": budget, "learning_rate": budget.learning_rate}
    asked = inspect.signature(function).parameters
    return {name: value for name, value in offered.items() if name in asked}


def _lightning_of(module: Any) -> Any:
    """The package whose LightningModule it is: there are two, and they do not go together."""
    for base in type(module).__mro__:
        for package in ("lightning.pytorch", "pytorch_lightning"):
            if base.__module__.startswith(package):
                return _needed(package, "lightning")
    _needed("lightning.pytorch", "lightning")
    raise TaskError(
        f"lightning_fit: got {type(module).__name__}, expected a LightningModule around the network"
    )


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without the lines that a trainer logs about itself at each of thousands of calls."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _needed(package: str, extra: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtra(f"{package} is not installed: pip install {extra}") from error


# -- transformers ----------------------------------------------------------------------------------------------------


class TrainerFit:
    """A `fit` that trains by the Trainer of transformers; see `trainer_fit`."""

    def __init__(self, training_arguments: dict[str, Any]) -> None:
        self.training_arguments = training_arguments

    def __call__(self, model: nn.Module, data: Data, budget: Budget) -> nn.Module:
        """Train `model`; the loss is the task's, with what the techniques make of it."""
        _needed("accelerate", "accelerate")
        transformers = _needed("transformers", "transformers accelerate")
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                **_TRAINER,
                **_limits(data.train, budget),
                "output_dir": folder,
                **self.training_arguments,
            }
            trainer = _trainer_class(transformers, budget)(
                model=model,
                args=transformers.TrainingArguments(**settings),
                train_dataset=_Passes(data.train, budget, Batch._asdict),
                callbacks=[] if budget.seconds is None else [_time_limit(transformers, budget.seconds)],
            )
            trainer.remove_callback(
                transformers.PrinterCallback
            )  # it prints a line at each of thousands of calls
            trainer.train()
        return model


_TRAINER = {"save_strategy": "no", "report_to": "none", "logging_strategy": "no", "disable_tqdm": True}


def trainer_fit(**training_arguments: Any) -> TrainerFit:
    """A `fit` for a task that trains by the Trainer of transformers (`pip install transformers accelerate`).

    Args:
        training_arguments: for `transformers.TrainingArguments`, over ours: optimizer, schedule, precision.
            Steps, learning rate, batch size and seed come from the search.
    """
    return TrainerFit(training_arguments)


def _limits(split: Split, budget: Budget) -> dict[str, Any]:
    return {
        "max_steps": _steps(split, budget),
        "learning_rate": budget.learning_rate,
        "per_device_train_batch_size": budget.batch_size,
        "seed": budget.seed,
        "use_cpu": not torch.cuda.is_available(),
    }


def _trainer_class(transformers: Any, budget: Budget) -> Any:
    class OurTrainer(transformers.Trainer):  # type: ignore[misc]  # the base is known at run time only
        """Batches as our splits give them, and the loss of the search."""

        def get_train_dataloader(self) -> DataLoader[Any]:
            """The split, in batches already."""
            return DataLoader(self.train_dataset, batch_size=None)

        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            """The task's loss, with what the techniques make of it."""
            batch = Batch(**inputs)
            outputs = call(model, batch.inputs)
            loss = budget.loss(outputs, batch)
            return (loss, outputs) if return_outputs else loss

    return OurTrainer


def _time_limit(transformers: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds

    class TimeLimit(transformers.TrainerCallback):  # type: ignore[misc]
        """Ends the training when its time is up."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            """Called after each step."""
            control.should_training_stop = time.monotonic() >= end

    return TimeLimit()
