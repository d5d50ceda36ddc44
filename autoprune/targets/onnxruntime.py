"""The target `onnxruntime`: ONNX Runtime on this machine's processor.

Integer models run as quantized operations from input to logits. What eight bits buy in time, and what fewer
bits buy in file size only, is for the measurement to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoprune.errors import TargetError
from autoprune.space import Value
from autoprune.space.precision import FLOAT32
from autoprune.targets.runtimes import PROVIDERS
from autoprune.targets.stopwatch import Stopwatch, Timed, require
from autoprune.targets.target import Runnable, unsupported_bits

if TYPE_CHECKING:
    from torch import nn

    from autoprune.targets.onnx_graph import Exported
    from autoprune.tensors import Inputs

MODEL_FILE = "model.onnx"


class OnnxModel:
    """A candidate as an ONNX file and a session that runs it.

    Attributes:
        files: the file.
        way, takes: how it was exported and what it takes (see `onnx_graph.Exported`).
        precision: of its floats.
    """

    def __init__(self, exported: Exported, precision: str = FLOAT32) -> None:
        self.files = {MODEL_FILE: exported.content}
        self.way, self.takes, self.precision = exported.way, exported.takes, precision
        self._session, self._interface = exported.session, exported.interface

    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch of any size, in the network's own form."""
        from autoprune.targets.onnx_graph import EXAMPLE, run_session
        from autoprune.tensors import one_by_one

        def outputs(part: Inputs) -> Any:
            return self._interface.rebuilt(run_session(self._session, part))

        if self.takes != EXAMPLE:
            return outputs(inputs)
        return one_by_one(outputs, inputs)


class OnnxRuntime(Timed):
    """ONNX Runtime on this machine's processor.

    Args:
        threads: of one inference. More than one makes measurements depend on what else runs here.
        rounds: of a measurement. Fewer are faster and less certain.
        block_ms: how long the candidate, and then the reference, runs in each round.
        channel_multiple: prune to multiples of so many channels only. Convolutions that read no multiple of 4 take up
            to 1.6 times what the next larger one takes; with AVX512 they write blocks of 16: 17 channels take what 32
            do. Where it is the size of the file that counts, 1 takes away more exactly.
        provider: where it runs: `cpu`, or `cuda` and `tensorrt` where ONNX Runtime was built with them.
        precision: `float32` or `float16`, or both, which makes it a choice: `target.precision`. It is that of networks
            in which nothing is rounded to fewer bits; beside integers, floats keep 32. Processors have no kernels for
            16: ONNX Runtime widens them there.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        TargetError: an argument that is no number or too small, or a provider or precision that is not here.
    """

    weight_bits = (2, 3, 4, 5, 6, 7, 8, 16, 32)
    activation_bits = (8, 32)

    def __init__(
        self,
        threads: int = 1,
        rounds: int = 20,
        block_ms: float = 3.0,
        channel_multiple: int = 4,
        provider: str = "cpu",
        precision: str | Sequence[str] = FLOAT32,
    ) -> None:
        require("onnxruntime", "onnx", "onnxruntime")
        _check_provider(provider)
        stopwatch = Stopwatch("onnxruntime", threads, rounds, block_ms, provider)
        super().__init__(stopwatch, channel_multiple, precision, (FLOAT32, "float16"))
        self.threads, self.provider = threads, provider
        self._way = "trace"  # that carried the last model: most candidates are much like it

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot run here, None when all can."""
        return unsupported_bits("ONNX Runtime", choices, self.weight_bits, self.activation_bits)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate as an ONNX model, loaded.

        Raises:
            ModelError: the model cannot be exported, or ONNX Runtime refuses it.
        """
        from autoprune.deployed.lowered import lowered, rounds_anything
        from autoprune.targets.onnx_graph import to_onnx

        precision = FLOAT32 if rounds_anything(model) else self.precision
        network = lowered(model, precision)
        exported = to_onnx(network, example, threads=self.threads, provider=self.provider, first=self._way)
        self._way = exported.way
        return OnnxModel(exported, precision)


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
