"""The target `openvino`: Intel's OpenVINO on this machine's processor, floats as float32, integers from our ranges.

OpenVINO reads the ONNX file that ONNX Runtime gets, quantizers included, once what is packed in it is unpacked:
weights of less than eight bits are stored as the bytes that they are computed with.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ModelError, raised
from autoprune.space import Value
from autoprune.targets.processor import adds_bytes_exactly
from autoprune.targets.runtimes import compile_openvino
from autoprune.targets.stopwatch import Stopwatch, Timed, require
from autoprune.targets.target import Runnable, unsupported_bits

if TYPE_CHECKING:
    from torch import nn

    from autoprune.targets.interface import Interface
    from autoprune.tensors import Inputs

MODEL_FILE, WEIGHTS_FILE = "model.xml", "model.bin"


class OpenVinoModel:
    """A candidate as an intermediate representation, compiled.

    Attributes:
        files: the graph and its weights.
        way, takes: how the ONNX file was exported and what it takes (see `onnx_graph.Exported`).
    """

    def __init__(
        self, files: dict[str, bytes], compiled: Any, interface: Interface, form: tuple[str, str]
    ) -> None:
        self.files, self._compiled, self._interface = files, compiled, interface
        self.way, self.takes = form

    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch of any size, in the network's own form."""
        from autoprune.targets.interface import arrays
        from autoprune.targets.onnx_graph import EXAMPLE
        from autoprune.tensors import one_by_one

        def outputs(part: Inputs) -> Any:
            found = self._compiled(arrays(part, {port.any_name for port in self._compiled.inputs}))
            named = {port.any_name: found[port].copy() for port in self._compiled.outputs}
            return self._interface.rebuilt(named)

        if self.takes != EXAMPLE:
            return outputs(inputs)
        return one_by_one(outputs, inputs)


class OpenVino(Timed):
    """OpenVINO on this machine's processor.

    Args:
        threads: of one inference.
        rounds, block_ms: of a measurement (see `stopwatch.Stopwatch`).
        channel_multiple: prune to multiples of so many channels only.

    Raises:
        MissingExtra: openvino is not installed.
        TargetError: an argument that is no number, or too small.
    """

    activation_bits = (8, 32)

    def __init__(
        self, threads: int = 1, rounds: int = 20, block_ms: float = 3.0, channel_multiple: int = 1
    ) -> None:
        require("openvino", "openvino", extra="openvino")
        super().__init__(Stopwatch("openvino", threads, rounds, block_ms), channel_multiple)
        self.threads = threads
        # Without such instructions OpenVINO adds up pairs of products in 16 bits, where those of eight bits saturate.
        self.weight_bits = (2, 3, 4, 5, 6, 7, *(() if adds_bytes_exactly() is False else (8,)), 16, 32)
        self._way = "trace"

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot run here, None when all can."""
        return unsupported_bits("OpenVINO", choices, self.weight_bits, self.activation_bits)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate as an intermediate representation, compiled.

        Raises:
            ModelError: the model cannot be exported, or OpenVINO refuses it.
        """
        from autoprune.targets.onnx_graph import to_onnx

        exported = to_onnx(model, example, threads=self.threads, first=self._way)
        self._way = exported.way
        files = to_openvino(exported.content)
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            compiled = compile_openvino(Path(folder, MODEL_FILE), self.threads)
        return OpenVinoModel(files, compiled, exported.interface, (exported.way, exported.takes))


def to_openvino(onnx_file: bytes) -> dict[str, bytes]:
    """The intermediate representation of an ONNX file of ours, weights uncompressed.

    Raises:
        ModelError: OpenVINO has no rule for an operation; the message names it.
    """
    require("openvino", "openvino", extra="openvino")
    import openvino

    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        source = Path(folder, "unpacked.onnx")
        source.write_bytes(unpacked(onnx_file))
        try:
            network = openvino.Core().read_model(str(source))
            openvino.save_model(network, str(Path(folder, MODEL_FILE)), compress_to_fp16=False)
        except Exception as error:
            reason = " ".join(str(error).split())[-300:]
            raise ModelError(f"OpenVINO cannot read the model: {reason}") from error
        return {name: Path(folder, name).read_bytes() for name in (MODEL_FILE, WEIGHTS_FILE)}


def unpacked(onnx_file: bytes) -> bytes:
    """An ONNX file whose weights are plain constants: ONNX Runtime's basic optimizations, written down.

    Raises:
        ModelError: ONNX Runtime cannot write it.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        written = Path(folder, "model.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath, options.log_severity_level = str(written), 4
        try:
            onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"the model cannot be unpacked: it {raised(error)}") from error
        return written.read_bytes()
