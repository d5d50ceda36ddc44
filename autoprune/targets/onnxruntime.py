"""The target `onnxruntime`: ONNX Runtime on this machine's processor.

Integer models run as quantized operations from input to logits. What eight bits buy in time, and what fewer
bits buy in file size only, is for the measurement to tell.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from autoprune.errors import MissingExtra, TargetError
from autoprune.space import Value
from autoprune.targets.measure import PROVIDERS, MeasuringProcess, machine_key
from autoprune.targets.target import Measurement, Runnable

if TYPE_CHECKING:
    from torch import nn

    from autoprune.targets.onnx_graph import Exported
    from autoprune.tensors import Inputs

MODEL_FILE = "model.onnx"
BRIEF_ROUNDS, BRIEF_BLOCK_MS = 4, 4.0


class OnnxModel:
    """A candidate as an ONNX file and a session that runs it.

    Attributes:
        files: the file.
        way, takes: how it was exported and what it takes (see `onnx_graph.Exported`).
    """

    def __init__(self, exported: Exported) -> None:
        self.files = {MODEL_FILE: exported.content}
        self.way, self.takes = exported.way, exported.takes
        self._session, self._interface = exported.session, exported.interface

    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch of any size, in the network's own form."""
        from autoprune.targets.onnx_graph import EXAMPLE, run_session
        from autoprune.tensors import batch_size, concatenate, rows

        def outputs(part: Inputs) -> Any:
            return self._interface.rebuilt(run_session(self._session, part))

        if self.takes != EXAMPLE:
            return outputs(inputs)
        return concatenate([outputs(rows(inputs, slice(i, i + 1))) for i in range(batch_size(inputs))])


class OnnxRuntime:
    """ONNX Runtime on this machine's processor.

    Args:
        threads: of one inference. More than one makes measurements depend on what else runs here.
        rounds: of a measurement. Fewer are faster and less certain.
        block_ms: how long the candidate, and then the reference, runs in each round.
        channel_multiple: prune to multiples of so many channels only. Integer convolutions work in blocks of
            16 here: 10 channels take longer than 16.
        provider: where it runs: `cpu`, or `cuda` and `tensorrt` where ONNX Runtime was built with them.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        TargetError: an argument that is no number or too small, or a provider that is not here.
    """

    weight_bits = (2, 3, 4, 5, 6, 7, 8, 16, 32)
    activation_bits = (8, 32)

    def __init__(
        self,
        threads: int = 1,
        rounds: int = 20,
        block_ms: float = 20.0,
        channel_multiple: int = 1,
        provider: str = "cpu",
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
        _check_provider(provider)
        self.threads, self.channel_multiple, self.provider = threads, channel_multiple, provider
        self._process = MeasuringProcess(threads=threads, rounds=rounds, block_ms=block_ms, provider=provider)
        self._brief: MeasuringProcess | None = None
        self._way = "trace"  # that carried the last model: most candidates are much like it

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

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate as an ONNX model, loaded.

        Raises:
            ModelError: the model cannot be exported, or ONNX Runtime refuses it.
        """
        from autoprune.targets.onnx_graph import to_onnx

        exported = to_onnx(model, example, threads=self.threads, provider=self.provider, first=self._way)
        self._way = exported.way
        return OnnxModel(exported)

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """Latency of one inference on `example`, measured in a process of its own.

        Raises:
            TargetError: the measuring process fails, twice.
        """
        from autoprune.targets.interface import arrays

        return self._process.measure(runnable.files[MODEL_FILE], arrays(example))

    def measure_briefly(self, runnable: Runnable, example: Inputs) -> Measurement:
        """The same in a tenth of the time, for tables of layers of which many are added up."""
        from autoprune.targets.interface import arrays

        if self._brief is None:
            self._brief = MeasuringProcess(
                threads=self.threads, rounds=BRIEF_ROUNDS, block_ms=BRIEF_BLOCK_MS, provider=self.provider
            )
        return self._brief.measure(runnable.files[MODEL_FILE], arrays(example))

    def machine_key(self) -> str:
        """Processor, runtime and threads in a few letters: what is measured holds for all that agree in it."""
        return machine_key(self.threads, self.provider)


def _check_provider(provider: str) -> None:
    """Refuse a provider that is none, or that this ONNX Runtime does not have."""
    import onnxruntime

    if provider not in PROVIDERS:
        raise TargetError(f"target.provider: got {provider!r}, accepted are {', '.join(PROVIDERS)}")
    if PROVIDERS[provider][0] not in onnxruntime.get_available_providers():
        raise TargetError(
            f"target.provider: {provider} is not part of the installed ONNX Runtime; install onnxruntime-gpu in its "
            "place, or use provider: cpu"
        )


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
