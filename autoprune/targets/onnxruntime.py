"""The target `onnxruntime`: ONNX Runtime on this machine's processor.

Integer models run as quantized operations from input to logits. What eight bits buy in time, and what fewer
bits buy in file size only, is for the measurement to tell.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import MissingExtra, TargetError
from autoprune.space import Value
from autoprune.targets.measure import MeasuringProcess, open_session
from autoprune.targets.onnx_graph import INPUT, to_onnx
from autoprune.targets.target import Measurement, Runnable

if TYPE_CHECKING:
    from torch import nn

MODEL_FILE = "model.onnx"


class OnnxModel:
    """A candidate as an ONNX file and a session that runs it."""

    def __init__(self, content: bytes, threads: int = 1) -> None:
        self.files = {MODEL_FILE: content}
        self._session = open_session(content, threads)

    def run(self, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Outputs for a batch of any size."""
        outputs: np.ndarray[Any, Any] = self._session.run(None, {INPUT: np.ascontiguousarray(inputs)})[0]
        return outputs


class OnnxRuntime:
    """ONNX Runtime on this machine's processor.

    Args:
        threads: of one inference. More than one makes measurements depend on what else runs here.
        rounds: of a measurement. Fewer are faster and less certain.
        block_ms: how long the candidate, and then the reference, runs in each round.
        channel_multiple: prune to multiples of so many channels only. Integer convolutions work in blocks of
            16 here: 10 channels take longer than 16.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        TargetError: an argument that is no number, or too small.
    """

    weight_bits = (2, 3, 4, 5, 6, 7, 8, 16, 32)
    activation_bits = (8, 32)

    def __init__(
        self, threads: int = 1, rounds: int = 20, block_ms: float = 20.0, channel_multiple: int = 1
    ) -> None:
        for package in ("onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(f"the target onnxruntime needs {package}: pip install {package}")
        counts = {"threads": threads, "rounds": rounds, "channel_multiple": channel_multiple}
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TargetError(f"target.{name}: got {value!r}, expected a whole number of 1 or more")
        if not isinstance(block_ms, int | float) or not 0 < block_ms < math.inf:
            raise TargetError(f"target.block_ms: got {block_ms!r}, expected a number of milliseconds above 0")
        self.threads, self.channel_multiple = threads, channel_multiple
        self._process = MeasuringProcess(threads=threads, rounds=rounds, block_ms=block_ms)

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot run here, None when all can."""
        for name, value in choices.items():
            for field, legal in (
                ("weight_bits", self.weight_bits),
                ("activation_bits", self.activation_bits),
            ):
                if name.startswith("quantize.") and name.endswith(f".{field}") and value not in legal:
                    return (
                        f"{name}: ONNX Runtime has no {value}-bit {field[:-5]}s; {_listed(legal)} are legal"
                    )
        return None

    def build(self, model: nn.Module, example: Any) -> Runnable:
        """The candidate as an ONNX model, loaded.

        Raises:
            ModelError: the model cannot be exported, or ONNX Runtime refuses it.
        """
        return OnnxModel(to_onnx(model, example).SerializeToString(), self.threads)

    def measure(self, runnable: Runnable, example: Any) -> Measurement:
        """Latency of one inference on `example`, measured in a process of its own.

        Raises:
            TargetError: the measuring process fails, twice.
        """
        return self._process.measure(runnable.files[MODEL_FILE], np.asarray(example))


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
