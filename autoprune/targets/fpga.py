"""The target `fpga`: the network as a circuit, each layer with multipliers of its own, as hls4ml builds it.

Numbers are fixed-point numbers of 2 to 16 bits (scales are powers of two). The reuse of each layer is a choice where
several are given: how many products one multiplier computes one after the other, which trades time for area. `dsp`,
`lut`, `bram` and `cycles` are metrics of the cost model in `circuit`, known before training: `dsp <= 220` and
`lut <= 53200` in a spec's constraints are what a Zynq 7020 has. Accuracies are computed by torch on the same numbers;
`export --format hls4ml` writes the project and runs its C++ against them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.errors import TargetError
from autoprune.space import Choice, Choices, Options, Value
from autoprune.targets.circuit import PARALLEL, STREAM, Circuit, circuit, cycles_of
from autoprune.targets.modelled import Modelled, host
from autoprune.targets.stopwatch import check_count
from autoprune.targets.target import OWN_CHOICES, Measurement, Runnable, unsupported_bits

if TYPE_CHECKING:
    from torch import nn

    from autoprune.deployed.shapes import LayerShape
    from autoprune.tensors import Inputs

CIRCUIT_FILE = "fpga.json"
KINDS = ("Conv1d", "Conv2d", "Linear")
REUSE = ".reuse"
UNCOMPRESSED = 32
SOURCE = "modelled as hls4ml builds it: of dense layers dsp and cycles as reported, lut within 5 %, bram 75 %"


class Fpga:
    """A circuit.

    Args:
        reuse: of every layer, or options of each layer's `target.<layer>.reuse`; the legal one that is closest is
            taken.
        part: of the vendor's, as the project names it.
        megahertz: of its clock, by which cycles become `latency_ms`.
        io: `io_stream`, rows of images pass from layer to layer, or `io_parallel`, layers work one after the other.

    Raises:
        TargetError: an argument that makes no sense.
    """

    weight_bits = tuple(range(2, 17))
    activation_bits = tuple(range(2, 17))
    channel_multiple = 1
    fixed_point = True

    def __init__(
        self,
        reuse: int | Sequence[int] = (1, 4, 16, 64, 256, 1024),
        part: str = "xc7z020clg400-1",
        megahertz: float = 100.0,
        io: str = STREAM,
    ) -> None:
        if not isinstance(megahertz, int | float) or not 0 < megahertz < math.inf:
            raise TargetError(f"target.megahertz: got {megahertz!r}, expected a number above 0")
        if io not in (STREAM, PARALLEL):
            raise TargetError(f"target.io: got {io!r}, expected {STREAM} or {PARALLEL}")
        if not isinstance(part, str) or not part:
            raise TargetError(
                f"target.part: got {part!r}, expected the name of a part, such as xc7z020clg400-1"
            )
        asked = reuse if isinstance(reuse, list | tuple) and reuse else (reuse,)
        for one in asked:
            check_count("reuse", one)
        self.reuse = tuple(sorted({*asked}))
        self.part, self.megahertz, self.io = part, float(megahertz), io
        self._chosen: dict[str, int] = {}
        self._host = host("torch")

    def choices(self, model: nn.Module, example: Inputs) -> dict[str, Choice]:
        """The reuse of each layer, unless there is one for all."""
        from autoprune.deployed.shapes import layer_shapes

        if len(self.reuse) < 2:
            return {}
        options = Options(self.reuse, neutral=self.reuse[-1])
        return {f"{OWN_CHOICES}{shape.name}{REUSE}": options for shape in layer_shapes(model, example)}

    def designs(self, model: nn.Module, example: Inputs) -> list[dict[str, Value]]:
        """For each reuse of the layer with most places, the largest of every other with which it takes no longer.

        Layers of a stream work at the same time, so that whatever is faster than the slowest wastes multipliers. The
        quickest come first: what is too large for its part is rejected unbuilt.
        """
        from autoprune.deployed.shapes import layer_shapes

        if len(self.reuse) < 2:
            return []
        shapes = {shape.name: shape for shape in layer_shapes(model, example)}
        most = max(math.prod(shape.gives) for shape in shapes.values())
        return [
            {
                f"{OWN_CHOICES}{name}{REUSE}": max(
                    [one for one in self.reuse if one * math.prod(shape.gives) <= slowest * most]
                    or self.reuse[:1]
                )
                for name, shape in shapes.items()
            }
            for slowest in self.reuse
        ]

    def configured(self, choices: Choices) -> Fpga:
        """This target with the reuse that was chosen for each layer."""
        made = Fpga(self.reuse, self.part, self.megahertz, self.io)
        names = [name for name in choices if name.startswith(OWN_CHOICES) and name.endswith(REUSE)]
        made._chosen = {
            name.removeprefix(OWN_CHOICES).removesuffix(REUSE): int(choices.number(name, self.reuse[-1]))
            for name in names
        }
        return made

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot be built, None when all can; floats stand for the uncompressed network."""
        legal = ((*bits, UNCOMPRESSED) for bits in (self.weight_bits, self.activation_bits))
        return unsupported_bits("fpga", choices, *legal)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate as torch computes it, with what it takes as a circuit, and how that is built.

        Raises:
            ModelError: torch.export cannot follow the model.
        """
        shapes, circuits = self._circuits(model, example)
        described = {CIRCUIT_FILE: json.dumps(self._described(shapes, circuits), indent=1).encode()}
        return Modelled(self._host, model, example, self._costs(shapes, circuits), described)

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:  # noqa: ARG002
        """What the model says of the candidate."""
        made = Modelled.of(runnable)
        return made.measurement(dict.fromkeys(made.costs, SOURCE))

    def price(self, model: nn.Module, example: Inputs) -> dict[str, float]:
        """`dsp`, `lut`, `bram`, `cycles` and milliseconds: what all layers take together."""
        return self._costs(*self._circuits(model, example))

    def costs_of(self, shapes: Sequence[LayerShape]) -> dict[str, float]:
        """The same for layers whose shapes are known."""
        return self._costs(shapes, [circuit(shape, self._reuse_of(shape.name)) for shape in shapes])

    def problems(self, model: nn.Module, example: Inputs) -> list[str]:
        """Layers that are no convolution over one or two axes and no product with a matrix."""
        from autoprune.deployed.shapes import layer_shapes

        return [
            f"layer {shape.name}: hls4ml builds {', '.join(KINDS)}, not {shape.kind}"
            for shape in layer_shapes(model, example)
            if shape.kind not in KINDS
        ]

    def machine_key(self) -> str:
        """The circuit's circumstances in a few letters."""
        return f"fpga-{self.part}-{self.megahertz:g}-{self.io}"

    def _circuits(self, model: nn.Module, example: Inputs) -> tuple[list[LayerShape], list[Circuit]]:
        from autoprune.deployed.shapes import layer_shapes

        shapes = layer_shapes(model, example)
        return shapes, [circuit(shape, self._reuse_of(shape.name)) for shape in shapes]

    def _reuse_of(self, layer: str) -> int:
        """The reuse chosen for a layer, or for what it is a part of (a factor of it)."""
        while layer and layer not in self._chosen:
            layer = layer.rpartition(".")[0]
        return int(self._chosen.get(layer, self.reuse[-1]))

    def _costs(self, shapes: Sequence[LayerShape], circuits: Sequence[Circuit]) -> dict[str, float]:
        cycles = cycles_of(circuits, shapes, self.io)
        return {
            "dsp": float(sum(one.dsp for one in circuits)),
            "lut": float(round(sum(one.lut for one in circuits))),
            "bram": float(sum(one.bram for one in circuits)),
            "cycles": float(cycles),
            "latency_ms": cycles / self.megahertz / 1e3,
        }

    def _described(self, shapes: Sequence[LayerShape], circuits: Sequence[Circuit]) -> Mapping[str, Any]:
        layers = [
            {
                "name": shape.name,
                "weight_bits": shape.weight_bits,
                "activation_bits": shape.activation_bits,
                **{field: getattr(one, field) for field in ("reuse", "multipliers", "dsp", "bram")},
                "lut": round(one.lut),
            }
            for shape, one in zip(shapes, circuits, strict=True)
        ]
        return {"part": self.part, "megahertz": self.megahertz, "io": self.io, "layers": layers}
