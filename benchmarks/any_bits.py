"""A target that runs candidates in torch as they are deployed: for accuracies at bits that no runtime here has."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn

from autoprune.space import Value
from autoprune.targets import Measurement
from autoprune.tensors import Inputs, call

RUNS = 20


class TorchModel:
    """A deployed module, run by torch; it has no file."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.files: dict[str, bytes] = {}

    @torch.no_grad()
    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch."""
        return call(self.module, inputs)


class AnyBits:
    """Any number of bits, in torch; the latency is the least of a few runs, which says nothing about small integers."""

    weight_bits = (2, 3, 4, 5, 6, 7, 8, 16, 32)
    activation_bits = (2, 3, 4, 5, 6, 7, 8, 32)
    channel_multiple = 1

    def supports(self, choices: dict[str, Value]) -> str | None:  # noqa: ARG002 - the contract of a target
        """Nothing is refused."""
        return None

    def build(self, model: nn.Module, example: Inputs) -> TorchModel:  # noqa: ARG002 - the contract of a target
        """The module itself."""
        return TorchModel(model.eval())

    def measure(self, runnable: TorchModel, example: Inputs) -> Measurement:
        """Milliseconds of one run."""
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            runnable.run(example)
            times.append((time.perf_counter() - start) * 1e3)
        return Measurement(min(times), sorted(times)[RUNS // 2], 0.0, min(times), RUNS, os.getloadavg()[0])
