"""The contract of a target: hardware and runtime on which candidates run and are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.space import Value

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tensors import Inputs


@dataclass(frozen=True)
class Measurement:
    """A latency and how far it can be trusted.

    Attributes:
        latency_ms: the value to compare by: candidate/reference ratio of minima times the reference's
            calibrated time.
        median_ms: median over all blocks, uncorrected.
        spread: relative difference of the two halves of the measurement; above 0.05 after re-measuring means
            that the machine was too busy to tell close candidates apart.
        reference_ms: minimum of the fixed reference in the same rounds.
        rounds: how many rounds were measured.
        load: the machine's 1-minute load average when it was measured.
    """

    latency_ms: float
    median_ms: float
    spread: float
    reference_ms: float
    rounds: int
    load: float


class Runnable(Protocol):
    """A candidate in the form in which it is deployed."""

    files: dict[str, bytes]
    """File name -> content: what an artifact of this target holds (`model.onnx`)."""

    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch of inputs, in the process's own runtime.

        Takes torch tensors as the network does (one, a tuple of positional or a dict of keyword arguments), and
        returns torch tensors in the form in which the network returns them.
        """
        ...


class Target(Protocol):
    """What a target must be able to do. Write one in any file and name it `file.py:Name`."""

    weight_bits: tuple[int, ...]
    """Weight bit widths that are legal here."""
    activation_bits: tuple[int, ...]
    """Activation bit widths that are legal here."""
    channel_multiple: int
    """Channel counts that are a multiple of this run best; 1 when it does not matter."""

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why these choices cannot run here, None when they can. Cheap: nothing is built."""
        ...

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The model in this target's runtime.

        Args:
            model: in eval mode; quantized layers carry their quantizers (see compress.quantize).
            example: inputs of batch size 1, as the task's batches hold them.

        Raises:
            ModelError: the runtime cannot carry the model; the message names the operator or layer.
        """
        ...

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """Latency of one inference at batch size 1, undisturbed by other measurements on this host."""
        ...
