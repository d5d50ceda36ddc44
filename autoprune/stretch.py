"""One stretch of training: by our loop, or by a training of the task's own in its place.

The search needs three things of a training that it does not know: the structure of the network is left alone, what is
masked stays masked, and the weights are finite. They are seen to here, after each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from autoprune.errors import AutopruneError, ModelError, TaskError, raised
from autoprune.task import Batch, Budget, Data, Task, TrainsItself
from autoprune.train import LossHook, StepHook, TrainSettings, train


def stretch(
    model: nn.Module,
    task: Task,
    data: Data,
    *,
    epochs: float,
    settings: TrainSettings,
    loss: LossHook | None = None,
    on_step: StepHook | None = None,
    along: Iterable[nn.Parameter] = (),
    seed: int = 0,
) -> str:
    """One stretch of training, in place: by the task's own `fit` where it has one, by our loop where not.

    Args:
        model, task, epochs, settings, seed: as for `train`.
        data: our loop trains on `data.train`; a `fit` is given all of it.
        loss: what techniques make of the task's loss; in a `fit`, it is part of `budget.loss`.
        on_step: called after each step of our loop; after a `fit` once, as after the last step, so that what techniques
            keep masked is masked again.
        along: parameters outside of the model that our loop trains with it.

    Returns:
        What came of `train.compile`, in words; empty when it was not asked for.
    """
    if not isinstance(task, TrainsItself):
        summary = train(
            model,
            task,
            data.train,
            epochs=epochs,
            settings=settings,
            loss=loss,
            on_step=on_step,
            along=along,
            seed=seed,
        )
        return summary.compiled

    def whole(outputs: Any, batch: Batch, own: torch.Tensor | None = None) -> torch.Tensor:
        value = task.loss(outputs, batch) if own is None else own
        return value if loss is None else loss(outputs, batch, value)

    budget = Budget(
        epochs, settings.max_seconds, settings.learning_rate, settings.batch_size, seed=seed, loss=whole
    )
    run_fit(task, model, data, budget)
    if on_step is not None:
        on_step(1, 1)
    return "not compiled: the task trains itself" if settings.compile else ""


def run_fit(task: TrainsItself, model: nn.Module, data: Data, budget: Budget) -> None:
    """Train `model` in place by the task's own `fit`, and leave it on the CPU in eval mode.

    Raises:
        TaskError: `fit` raises, or returns something else than a network.
        ModelError: what it returns has other parameters than what it was given, or parameters that are not finite.
    """
    held = dict(_state(model))
    shapes = {name: tensor.shape for name, tensor in held.items()}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(budget.seed)
        try:
            returned = task.fit(model.train(), data, budget)
        except AutopruneError:
            raise
        except Exception as error:
            raise TaskError(f"the task's fit() {raised(error)}") from error
    trained = model if returned is None else returned
    if not isinstance(trained, nn.Module):
        raise TaskError(
            f"the task's fit() returns {type(trained).__name__}, expected the trained torch.nn.Module"
        )
    found = {name: tensor.detach() for name, tensor in _state(trained)}
    if problem := _difference(shapes, found):
        raise ModelError(
            f"the task's fit() {problem}: train the network it is given and leave its structure alone"
        )
    # By value, into the tensors that the network had: others share them, and fit may have moved it to a device.
    for name, tensor in held.items():
        tensor.data = found[name].to("cpu", tensor.dtype, copy=True)
    model.cpu().eval()


def _state(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _difference(shapes: dict[str, torch.Size], found: dict[str, torch.Tensor]) -> str:
    for name, shape in shapes.items():
        if name not in found:
            return f"returns a network without {name!r}"
        if found[name].shape != shape:
            return f"changes {name!r} from shape {tuple(shape)} to {tuple(found[name].shape)}"
        if found[name].is_floating_point() and not torch.isfinite(found[name]).all():
            return f"leaves NaN or infinity in {name!r} (a lower learning rate may help)"
    added = next((name for name in found if name not in shapes), "")
    return f"returns a network with {added!r} added" if added else ""
