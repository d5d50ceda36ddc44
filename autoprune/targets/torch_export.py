"""The target `torch`: PyTorch's own operations, on this machine's processor or graphics card; and its files.

    model.pt2            a `torch.export` program: what is measured, and what `--format torch_export` writes
    model.aoti.pt2       the same compiled by AOTInductor, for C++ and for this kind of processor: an export only

Rounded numbers are computed as floats here: bits pay in size, pruning and architecture in time.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.deployed.lowered import lowered
from autoprune.deployed.quantizers import ActivationQuantizer
from autoprune.errors import ModelError, TargetError
from autoprune.space import Value
from autoprune.space.precision import FLOAT32, PRECISIONS
from autoprune.targets.interface import Interface
from autoprune.targets.onnx_exporters import Flat, plain_forward
from autoprune.targets.stopwatch import Stopwatch, Timed
from autoprune.targets.target import Runnable, unsupported_bits
from autoprune.tensors import Inputs, batch_size, call, one_by_one

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MODEL_FILE, COMPILED_FILE = "model.pt2", "model.aoti.pt2"


class TorchProgram:
    """A candidate as an exported program.

    Attributes:
        files: the program.
        program: the same, loaded.
        takes: whether it takes batches, or one example at a time.
        precision: of what is not rounded to fewer bits.
    """

    way = "torch.export"

    def __init__(
        self, program: ExportedProgram, interface: Interface, takes: str, precision: str = FLOAT32
    ) -> None:
        buffer = io.BytesIO()
        with _quiet():
            torch.export.save(program, buffer)
        self.files = {MODEL_FILE: buffer.getvalue()}
        self.program, self.takes, self.precision = program, takes, precision
        self._module, self._interface = program.module(), interface

    @torch.no_grad()
    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch of any size, in the network's own form."""
        if self.takes == BATCHES:
            return self._outputs(inputs)
        return one_by_one(self._outputs, inputs)

    def _outputs(self, inputs: Inputs) -> Any:
        given = Interface(inputs, ()).inputs_by_name.values()
        found = dict(zip(self._interface.outputs_by_name, self._module(*given), strict=True))
        return self._interface.rebuilt({name: tensor.numpy() for name, tensor in found.items()})


class Torch(Timed):
    """PyTorch, operation by operation, on this machine's processor, or as a CUDA graph on its graphics card.

    Args:
        threads: of one inference.
        rounds, block_ms: of a measurement (see `stopwatch.Stopwatch`).
        channel_multiple: prune to multiples of so many channels only.
        provider: where it is measured: `cpu` or `cuda`. Accuracies are computed on the processor.
        precision: `float32`, `bfloat16` or `float16`, or several, which makes it a choice: `target.precision`.

    Raises:
        TargetError: an argument that is no number, or too small, or a provider or precision that is not here.
    """

    weight_bits = (2, 3, 4, 5, 6, 7, 8, 16, 32)
    activation_bits = (2, 3, 4, 5, 6, 7, 8, 32)

    def __init__(
        self,
        threads: int = 1,
        rounds: int = 20,
        block_ms: float = 3.0,
        channel_multiple: int = 1,
        provider: str = "cpu",
        precision: str | Sequence[str] = FLOAT32,
    ) -> None:
        if provider not in ("cpu", "cuda"):
            raise TargetError(f"target.provider: got {provider!r}, accepted are cpu, cuda")
        if provider == "cuda" and not torch.cuda.is_available():
            raise TargetError("target.provider: torch sees no CUDA device here; use provider: cpu")
        stopwatch = Stopwatch("torch", threads, rounds, block_ms, provider)
        super().__init__(stopwatch, channel_multiple, precision, PRECISIONS)

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot run here, None when all can."""
        return unsupported_bits("torch", choices, self.weight_bits, self.activation_bits)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate as an exported program.

        Raises:
            ModelError: torch.export cannot follow the model.
        """
        return to_program(model, example, precision=self.precision)

    def machine_key(self) -> str:
        """Processor, runtime and threads in a few letters."""
        return f"{super().machine_key()}-{torch.__version__}"


class Rounded(nn.Module):
    """A quantizer whose range is known: its grid as numbers, which an exporter can follow."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        scale, zero = quantizer.grid.tolist()
        self.scale, self.zero, self.most = float(scale), int(zero), 2**quantizer.bits - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.scale <= 0 else self.rounded(x)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The numbers of the grid that are nearest."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, self.most)


def settled(model: nn.Module, quantizer: type[Rounded] = Rounded, but: int = 0) -> nn.Module:
    """A copy of a deployed network in which no value of a tensor decides what is computed.

    Args:
        model: deployed.
        quantizer: what takes the place of its quantizers.
        but: of so many bits, which stay.
    """
    made = copy.deepcopy(model).eval()
    for name, module in list(made.named_modules()):
        if isinstance(module, ActivationQuantizer) and module.bits != but:
            made.set_submodule(name, quantizer(module))
    return made


BATCHES, EXAMPLE = "batches", "one example at a time"


def to_program(
    model: nn.Module, example: Inputs, ways: Sequence[str] = (BATCHES, EXAMPLE), precision: str = FLOAT32
) -> TorchProgram:
    """A deployed module as an exported program for batches of any size, or for one example where it has to be.

    Args:
        model: deployed, in eval mode.
        example: inputs of batch size 1.
        ways: what it may take, in the order in which they are tried.
        precision: in which everything is computed that is not rounded to fewer bits.

    Raises:
        ModelError: torch.export cannot follow the model; the message has its first line.
    """
    with torch.no_grad(), plain_forward(model):
        interface = Interface(example, call(model, example))
        network = Flat(lowered(settled(model), precision), example)
        failed = ""
        for takes in ways:
            try:
                return TorchProgram(_exported(network, interface, takes), interface, takes, precision)
            except Exception as error:  # of many kinds, whatever the network does
                failed = failed or (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    raise ModelError(f"the model cannot be exported by torch.export: {failed}")


def _exported(network: nn.Module, interface: Interface, takes: str) -> ExportedProgram:
    size = batch_size(interface.example)
    tensors = list(interface.inputs_by_name.values())
    if takes != BATCHES:
        with _quiet():
            return torch.export.export(network, tuple(tensors))
    has_batch = [t.dim() > 0 and len(t) == size for t in tensors]
    given = tuple(
        t.repeat_interleave(2, 0) if is_one else t for t, is_one in zip(tensors, has_batch, strict=True)
    )
    batch = torch.export.Dim.AUTO
    sizes = tuple({0: batch} if is_one else None for is_one in has_batch)
    with _quiet():
        return torch.export.export(network, given, dynamic_shapes={"tensors": sizes})


def compiled(model: nn.Module, example: Inputs) -> Mapping[str, bytes]:
    """A deployed module compiled by AOTInductor, beside the program: needs a C++ compiler, and takes about a minute.

    Raises:
        ModelError: it cannot be exported, or not compiled.
    """
    exported = to_program(model, example)
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder, _quiet():
        path = Path(folder, COMPILED_FILE)
        try:
            torch._inductor.aoti_compile_and_package(exported.program, package_path=str(path))
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"AOTInductor cannot compile the model: {reason}") from error
        return {COMPILED_FILE: path.read_bytes(), **exported.files}


class _quiet(warnings.catch_warnings):  # noqa: N801  (used like a function)
    """Without the exporter's remarks on how it does its work."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.export").setLevel(logging.ERROR)
