"""From a deployed module to the ONNX file that a runtime gets, proven on the way.

No exporter carries every network, and some write files that are wrong without a word. So there is a ladder: each
way of exporting is tried in turn, the fast ones first, and what it wrote counts only if ONNX Runtime loads it and
computes what the module computes: on the example, on a batch of three and, for sequences, on shorter ones. The
first that does is taken, and recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from autoprune.deployed.lowered import Lowered
from autoprune.deployed.quantizers import QuantizedLayer
from autoprune.errors import ModelError
from autoprune.targets.interface import Arrays, Interface, arrays, relative_error
from autoprune.targets.onnx_exporters import NETWORK, Axes, exported, plain_forward, traced, traced_plainly
from autoprune.targets.onnx_rewrite import rewrite
from autoprune.targets.runtimes import open_session
from autoprune.tensors import Inputs, batch_size, call, map_tensors, tensors_in

if TYPE_CHECKING:
    from torch import nn

WAYS = {"trace": traced, "trace with plain attention": traced_plainly, "torch.export": exported}
"""The exporters, in the order in which they are tried."""
SLOW_WAY = "torch.export"
ANY_LENGTH, ANY_BATCH, EXAMPLE = "batches of any length", "batches", "one example at a time"
"""What a file takes: batches of any size with sequences of any length, batches of any size, or neither."""
MOST_ERROR = 1e-3
"""Relative error of a float network's outputs. Another summation order costs 1e-6, a wrong operation far more."""
MOST_ERROR_OF_INTEGERS = 0.02
"""The same where values are rounded: one that lies on the edge of two codes may fall to either side, which cost at
most 1e-3 in seventeen small architectures with random weights, and .01 to .08 on one input in four of a MobileNet that
was hardly trained, where float32 and float64 differ as much. What is beyond is looked at again nearby."""
NEARBY = (0.97, 0.93, 0.88)
MOST_ERROR_OF_HALVES = 0.01
"""The same in half precision, whose steps are 1e-3 apart."""


class Exported(NamedTuple):
    """A file that computes what its module computes.

    Attributes:
        content: of the file.
        session: of ONNX Runtime, loaded with it.
        interface: names and forms of inputs and outputs.
        way: the exporter that wrote it, one of `WAYS`.
        takes: `ANY_LENGTH`, `ANY_BATCH` or `EXAMPLE`.
    """

    content: bytes
    session: Any
    interface: Interface
    way: str
    takes: str


class _Probe(NamedTuple):
    """Inputs and what the module gives for them."""

    inputs: Inputs
    outputs: Any


def to_onnx(
    model: nn.Module, example: Inputs, *, threads: int = 1, provider: str = "cpu", first: str = "trace"
) -> Exported:
    """The ONNX file of a deployed module, loaded and held against the module.

    Args:
        model: in eval mode.
        example: inputs of batch size 1 in the network's form.
        threads, provider: of the session.
        first: the way that is tried before all others: the one that carried a network much like it.

    Raises:
        ModelError: no exporter carries the model; the message says what stands in the way of each, with the
            operator where it is known.
    """
    with torch.no_grad(), plain_forward(model):
        interface = Interface(example, call(model, example))
        probes = _probes(model, interface)
        reasons: dict[str, str] = {}
        hopeless: set[str] = set()
        for takes, way in _attempts(probes, first):
            if way in hopeless and (takes != EXAMPLE or way == SLOW_WAY):
                continue  # sizes that are only known when it runs are in the way of some operations
            try:
                content = _written(model, interface, way, takes)
            except Exception as error:  # of many kinds, whatever the sizes may be
                hopeless.add(way)
                reasons[way] = f"{type(error).__name__}: {_first_line(error)}"
                continue
            try:
                session = open_session(content, threads, provider)
                _prove(model, session, interface, probes[takes])
            except ModelError as error:
                reasons[way] = _first_line(error)
            else:
                return Exported(content, session, interface, way, takes)
    listed = "; ".join(f"by {way}: {reason}" for way, reason in reasons.items())
    raise ModelError(f"the model cannot be exported to ONNX: {listed}")


def _attempts(probes: Mapping[str, Any], first: str) -> Iterator[tuple[str, str]]:
    """What the file takes, and how it is written: the older exporter with all sizes, then the newer one."""
    ways = sorted(WAYS, key=lambda way: way != first)
    sizes = [takes for takes in probes if takes != EXAMPLE]
    if first == SLOW_WAY:
        yield from ((takes, first) for takes in sizes)
    yield from ((takes, way) for takes in sizes for way in ways if way != SLOW_WAY)
    if first != SLOW_WAY:
        yield from ((takes, SLOW_WAY) for takes in sizes)
    yield from ((EXAMPLE, way) for way in ways)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error'>: " in line]  # the newer exporter buries the reason
    return (named or lines or [type(error).__name__])[0][:300]


def _written(model: nn.Module, interface: Interface, way: str, takes: str) -> bytes:
    """The file as a way writes it, made ready for ONNX Runtime."""
    proto = WAYS[way](model, interface, _axes(interface, takes))
    rewrite(proto, prefix=f"{NETWORK}.")
    return bytes(proto.SerializeToString())


def _axes(interface: Interface, takes: str) -> Axes:
    """Input or output -> axis -> name of a size that may differ from the example's."""
    size = batch_size(interface.example)
    lengths = sequence_lengths(interface) if takes == ANY_LENGTH else {}
    axes: dict[str, dict[int, str]] = {}
    if takes == EXAMPLE:
        return axes
    for name, tensor in {**interface.inputs_by_name, **interface.outputs_by_name}.items():
        if tensor.dim() > 0 and len(tensor) == size:
            axes[name] = {0: "batch"}
    for name, length in lengths.items():
        axes.setdefault(name, {})[1] = f"length_{length}"
    return axes


def sequence_lengths(interface: Interface) -> dict[str, int]:
    """Input -> length, of inputs that are sequences: whole numbers (N, T, ...), and (N, T) that go with them."""
    inputs = interface.inputs_by_name
    lengths = {tensor.shape[1] for tensor in inputs.values() if tensor.dim() > 1 and _is_index(tensor)}
    return {
        name: tensor.shape[1]
        for name, tensor in inputs.items()
        if tensor.dim() > 1 and tensor.shape[1] in lengths and (_is_index(tensor) or tensor.dim() == 2)
    }


def _is_index(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool


# -- proof ---------------------------------------------------------------------------------------------------


def _probes(model: nn.Module, interface: Interface) -> dict[str, list[_Probe]]:
    """What a file may take -> the inputs that prove it; without those that the network itself does not take."""
    example, lengths = interface.example, sequence_lengths(interface)
    alone = [_Probe(example, interface.outputs), *_probe(model, _opposite(example))]
    probes = {EXAMPLE: alone}
    if several := _probe(model, _varied(example)) or _probe(model, _repeated(example)):
        probes = {ANY_BATCH: [*alone, *several], **probes}
        if lengths and (shorter := _probe(model, _shortened(several[0].inputs, set(lengths.values())))):
            probes = {ANY_LENGTH: [*alone, *several, *shorter], **probes}
    return probes


def _probe(model: nn.Module, inputs: Inputs) -> list[_Probe]:
    """None where the network does not take these inputs."""
    try:
        return [_Probe(inputs, call(model, inputs))]
    except Exception:  # of any kind: they were not what its author had in mind
        return []


def _opposite(example: Inputs) -> Inputs:
    """Values of the other sign: a network that branches on values may take the other branch."""
    return map_tensors(lambda t: -t if t.is_floating_point() else t, example)


def _repeated(example: Inputs) -> Inputs:
    """A batch of three equal examples; what has no batch axis stays as it is."""
    size = batch_size(example)
    return map_tensors(lambda t: torch.cat([t] * 3) if t.dim() > 0 and len(t) == size else t, example)


def _varied(example: Inputs) -> Inputs:
    """A batch of three of which the last is another: mirrored values, zeros for indices, the same masks."""

    def vary(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() > 1 and len(tensor) == 3 * size and tensor.is_floating_point():
            return torch.cat([tensor[:-size], tensor[-size:].flip(-1)])
        if tensor.dim() > 1 and len(tensor) == 3 * size and not _is_mask(tensor):
            return torch.cat([tensor[:-size], torch.zeros_like(tensor[-size:])])
        return tensor

    size = batch_size(example)
    return map_tensors(vary, _repeated(example))


def _is_mask(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())


def _shortened(inputs: Inputs, lengths: set[int]) -> Inputs:
    """Sequences without their last third."""

    def shorten(tensor: torch.Tensor) -> torch.Tensor:
        is_sequence = tensor.dim() > 1 and tensor.shape[1] in lengths
        if is_sequence and (_is_index(tensor) or tensor.dim() == 2):
            return tensor[:, : max(1, tensor.shape[1] - max(1, tensor.shape[1] // 3))]
        return tensor

    return map_tensors(shorten, inputs)


def _prove(model: nn.Module, session: Any, interface: Interface, probes: Sequence[_Probe]) -> None:
    """Refuse a file that does not compute what the module does.

    Raises:
        ModelError: it does not run on a probe, or computes something else.
    """
    limit = _limit(model)
    for probe in probes:
        reason = _difference(session, interface, probe, limit)
        if reason and all(_difference(session, interface, other, limit) for other in _nearby(model, probe)):
            raise ModelError(f"the file computes something else: {reason}")


def _difference(session: Any, interface: Interface, probe: _Probe, limit: float) -> str:
    """Which output of a file is farther from the module's than the limit; empty when none is."""
    found = run_session(session, probe.inputs)
    for name, expected in zip(interface.outputs_by_name, tensors_in(probe.outputs), strict=True):
        error = relative_error(expected.numpy(), found[name])
        if error > limit:
            return (
                f"{name} of shape {tuple(found[name].shape)} differs by {error:.2%} from the module's, of shape "
                f"{tuple(expected.shape)}"
            )
    return ""


def _nearby(model: nn.Module, probe: _Probe) -> Iterator[_Probe]:
    """A little less of the same, where values are rounded: a wrong operation is wrong there, too, while what lay on the
    edge of two codes does not. None for other networks."""
    if _rounds(model):
        for share in NEARBY:
            yield from _probe(model, map_tensors(partial(_times, share), probe.inputs))


def _times(share: float, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * share if tensor.is_floating_point() else tensor


def run_session(session: Any, inputs: Inputs) -> Arrays:
    """Outputs of a file by name.

    Raises:
        ModelError: ONNX Runtime cannot run it on these inputs.
    """
    wanted = {value.name for value in session.get_inputs()}
    try:
        values = session.run(None, arrays(inputs, wanted))
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error
    return {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}


def _limit(model: nn.Module) -> float:
    if _rounds(model):
        return MOST_ERROR_OF_INTEGERS
    halves = any(isinstance(module, Lowered) for module in model.modules())
    return MOST_ERROR_OF_HALVES if halves else MOST_ERROR


def _rounds(model: nn.Module) -> bool:
    """Whether a network rounds values to codes."""
    return any(isinstance(module, QuantizedLayer) for module in model.modules())
