"""The training of a supernet: the sandwich rule with in-place distillation, in the one training loop.

In each step the largest network learns from the labels, and the smallest and a few that are drawn learn from what the
largest says (Yu & Huang 2019, "Universally Slimmable Networks and Improved Training Techniques"; Yu et al. 2020,
BigNAS). All of it is one loss, so nothing else about training differs from that of any network.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.compress.distill.logits import plain_distance
from autoprune.errors import TaskError
from autoprune.stretch import stretch
from autoprune.supernet import Supernet
from autoprune.task import Batch, Data, Task, main_output
from autoprune.tensors import Inputs, call, tensors_in
from autoprune.train import TrainSettings

COPIES = {"sgd": 3, "adamw": 4}  # of each parameter: itself, its gradient, and what the optimizer keeps
FLOAT = 4


def train_supernet(
    supernet: Supernet,
    task: Task,
    data: Data,
    *,
    epochs: float,
    networks: int,
    settings: TrainSettings,
    seed: int,
) -> None:
    """Train the shared tensors in place.

    Args:
        supernet: filled with what training starts from.
        task, data, settings, seed: as for any training; it is not compiled.
        epochs: passes over the training split, in each step of which `2 + networks` networks take part.
        networks: how many are drawn in each step, beside the largest and the smallest.

    Raises:
        TaskError: it does not fit the memory, or the loss is no longer finite.
    """
    example = next(iter(data.train.batches(1))).inputs
    needed, there = needed_bytes(supernet, example, networks, settings), memory_bytes()
    if needed > there:
        raise TaskError(
            f"training the supernet takes about {needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f}: "
            f"lower train.batch_size ({settings.batch_size}) or supernet.networks ({networks})"
        )
    loss = Sandwich(supernet, task, networks, seed)
    settings = replace(settings, compile=False)
    stretch(supernet, task, data, epochs=epochs, settings=settings, loss=loss, seed=seed)


class Sandwich:
    """The loss of a step: the largest network's own, and how far the smallest and some drawn ones are from it.

    Args:
        supernet: what is trained.
        task: of it.
        networks: how many are drawn in each step.
        seed: of the draws.
    """

    def __init__(self, supernet: Supernet, task: Task, networks: int, seed: int) -> None:
        self._supernet, self._task, self._networks = supernet, task, networks
        self._generator = np.random.default_rng(seed)

    def __call__(self, outputs: Any, batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        """The whole loss, given what the largest network says and its own loss."""
        teacher = main_output(self._task, outputs).detach().float()
        drawn = [self._supernet.draw(self._generator) for _ in range(self._networks)]
        for architecture in (self._supernet.smallest, *drawn):
            said = self._supernet.run(architecture, batch.inputs)
            distance = plain_distance(self._task, main_output(self._task, said), teacher, batch)
            loss = loss + (self._task.loss(said, batch) if distance is None else distance)
        return loss


def needed_bytes(supernet: Supernet, example: Inputs, networks: int, settings: TrainSettings) -> int:
    """Roughly what a step holds at once: parameters, and what the layers of all networks give for a batch."""
    seen: list[int] = []
    network = supernet.network(supernet.largest)
    hooks = [
        module.register_forward_hook(lambda _, __, given: seen.extend(t.numel() for t in tensors_in(given)))
        for module in network.modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            call(network.eval(), example)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = sum(parameter.numel() for parameter in supernet.parameters())
    held = sum(seen) * settings.batch_size * (2 + networks)
    return FLOAT * (COPIES[settings.optimizer] * parameters + held)


def memory_bytes() -> int:
    """The memory of this machine, or of the container that we run in where that allows less."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no such file, or "max"
        there = min(there, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return there
