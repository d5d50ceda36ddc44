"""The target `asic`: an accelerator that does not exist yet, by ZigZag's cost model.

Latency in cycles and energy of one inference, of ZigZag's Eyeriss-, Edge-TPU- and TPU-like descriptions or of a YAML
file of one's own (Mei et al., "ZigZag: enlarging joint architecture-mapping design space exploration for DNN
accelerators", IEEE Transactions on Computers, 2021). ZigZag takes seconds for a layer, so it is asked once for each
shape and pair of bit widths; answers are kept on the disk and shared by all workers and later searches.

An accelerator computes in integers. Layers that stay float are costed at 16 bits; that is what the uncompressed network
is compared at. What is between the layers (sums, pooling) is not costed.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autoprune.targets.zigzag_layers as zigzag_layers
from autoprune.errors import TargetError
from autoprune.space import Value
from autoprune.targets.cache import cache_folder, write_cache
from autoprune.targets.environment import ask, python_of
from autoprune.targets.modelled import Modelled, host
from autoprune.targets.target import Measurement, Runnable, unsupported_bits

if TYPE_CHECKING:
    from torch import nn

    from autoprune.deployed.shapes import LayerShape
    from autoprune.tensors import Inputs

ACCELERATORS = {
    "eyeriss_like": "default",
    "edge_tpu_like": "edge_tpu_like",
    "tpu_like": "tpu_like",
    "meta_prototype": "meta_prototype_like",
    "tesla_npu_like": "tesla_npu_like",
    "ascend_like": "ascend_like",
}
"""Descriptions that come with ZigZag -> the spatial mapping that belongs to each."""
ENVIRONMENT = "zigzag"
TIME_LIMIT = 300.0  # seconds, for each layer that is asked for
FORMAT = 1  # of what is asked: raise it whenever `zigzag_layers` changes
FLOAT_BITS = 16
PICO_TO_MICRO = 1e-6


class Asic:
    """An accelerator by ZigZag's cost model.

    Args:
        accelerator: one of `ACCELERATORS`, or a YAML file in ZigZag's form, relative to the spec.
        mapping: its spatial mapping, another of ZigZag's names or a file; by default the one that belongs to it.
        megahertz: of its clock, by which cycles become `latency_ms`.
        runs: computes accuracies here: `onnxruntime`, `openvino`, `torch`.
        folder: that of the spec.

    Raises:
        MissingExtra: the environment with ZigZag was not made yet.
        TargetError: an argument that makes no sense, or a file that is not there.
    """

    weight_bits = (2, 3, 4, 5, 6, 7, 8, 16, 32)
    channel_multiple = 1

    def __init__(
        self,
        accelerator: str = "eyeriss_like",
        mapping: str | None = None,
        megahertz: float = 200.0,
        runs: str = "torch",
        folder: Path | None = None,
    ) -> None:
        if not isinstance(megahertz, int | float) or not 0 < megahertz < math.inf:
            raise TargetError(f"target.megahertz: got {megahertz!r}, expected a number above 0")
        python_of(ENVIRONMENT)
        self.megahertz, self.name = megahertz, accelerator
        self._accelerator = _described("accelerator", accelerator, folder)
        self._mapping = _described("mapping", mapping or ACCELERATORS.get(accelerator, "default"), folder)
        self._host = host(runs)
        self.activation_bits = tuple(bits for bits in self._host.activation_bits if bits >= 2)
        self._costs = _Costs(self._accelerator, self._mapping)

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot run there, None when all can."""
        return unsupported_bits(self.name, choices, self.weight_bits, self.activation_bits)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate in the runtime that computes its accuracy, with what it takes on the accelerator.

        Raises:
            ModelError: that runtime cannot carry it.
            TargetError: ZigZag has no answer for a layer, which is named.
        """
        return Modelled(self._host, model, example, self.price(model, example))

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:  # noqa: ARG002
        """What the model says of the candidate."""
        made = Modelled.of(runnable)
        source = f"modelled: ZigZag, {self.name} at {self.megahertz:g} MHz"
        return made.measurement(dict.fromkeys(made.costs, source))

    def price(self, model: nn.Module, example: Inputs) -> dict[str, float]:
        """Cycles, milliseconds and microjoules: the sums over all layers.

        Raises:
            TargetError: ZigZag has no answer for a layer, which is named.
        """
        from autoprune.deployed.shapes import layer_shapes

        costs = self.layer_costs(layer_shapes(model, example))
        cycles = sum(one["cycles"] for one in costs)
        return {
            "cycles": cycles,
            "latency_ms": cycles / self.megahertz / 1e3,
            "energy_uj": sum(one["energy_pj"] for one in costs) * PICO_TO_MICRO,
        }

    def layer_costs(self, shapes: list[LayerShape]) -> list[dict[str, float]]:
        """`cycles` and `energy_pj` of each layer.

        Raises:
            TargetError: ZigZag has no answer for a layer, which is named.
        """
        return self._costs.of(shapes)

    def problems(self, model: nn.Module, example: Inputs) -> list[str]:
        """Layers that are no convolution over one or two axes and no product with a matrix."""
        from autoprune.deployed.shapes import layer_shapes

        return [
            f"layer {shape.name}: ZigZag's reader takes Conv1d, Conv2d and Linear, not {shape.kind}"
            for shape in layer_shapes(model, example)
            if shape.kind not in ("Conv1d", "Conv2d", "Linear")
        ]

    def machine_key(self) -> str:
        """The accelerator, in a few letters."""
        return self._costs.key


class _Costs:
    """What layers take, asked for once: a file for each layer, so that workers need not wait for each other.

    Args:
        accelerator, mapping: names of ZigZag's, or paths.
    """

    def __init__(self, accelerator: str, mapping: str) -> None:
        self._accelerator, self._mapping = accelerator, mapping
        parts = [FORMAT, *(_content(one) for one in (accelerator, mapping))]
        self.key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        self._known: dict[str, dict[str, float]] = {}

    def of(self, shapes: list[LayerShape]) -> list[dict[str, float]]:
        """`cycles` and `energy_pj` of each.

        Raises:
            TargetError: ZigZag has no answer for one of them.
        """
        signatures = [json.dumps(as_layer(shape), sort_keys=True) for shape in shapes]
        wanted = {one: shape for one, shape in zip(signatures, shapes, strict=True) if not self._read(one)}
        if wanted:
            self._ask(wanted)
        return [self._known[one] for one in signatures]

    def _ask(self, wanted: dict[str, LayerShape]) -> None:
        layers = [json.loads(signature) for signature in wanted]
        request = {"accelerator": self._accelerator, "mapping": self._mapping, "layers": layers}
        answers = ask(ENVIRONMENT, Path(zigzag_layers.__file__), request, TIME_LIMIT * len(layers))
        problems = []
        for (signature, shape), answer in zip(wanted.items(), answers, strict=True):
            if "error" in answer:
                problems.append(f"layer {shape.name}: {answer['error']}")
                continue
            self._known[signature] = answer
            try:
                write_cache(self._path(signature), answer)
            except OSError:  # it is known to this process all the same
                continue
        if problems:
            raise TargetError("\n".join(problems))

    def _read(self, signature: str) -> bool:
        """Whether a layer is known, here or on the disk."""
        if signature not in self._known:
            try:
                found = json.loads(self._path(signature).read_text(encoding="utf-8"))
                self._known[signature] = {name: float(found[name]) for name in ("cycles", "energy_pj")}
            except (OSError, ValueError, KeyError, TypeError):
                return False
        return True

    def _path(self, signature: str) -> Path:
        name = hashlib.sha256(signature.encode()).hexdigest()[:24]
        return cache_folder() / f"zigzag-{self.key}" / f"{name}.json"


def as_layer(shape: LayerShape) -> dict[str, Any]:
    """A layer as `zigzag_layers` takes it: a convolution over two axes."""
    is_linear = shape.kind == "Linear"
    tokens = [math.prod(shape.gives), 1]
    return {
        "outputs": shape.outputs,
        "inputs": shape.inputs // shape.groups,
        "groups": shape.groups,
        "given": tokens if is_linear else _two(shape.given),
        "gives": tokens if is_linear else _two(shape.gives),
        "kernel": [1, 1] if is_linear else _two(shape.kernel),
        "stride": [1, 1] if is_linear else _two(shape.stride),
        "weight_bits": min(FLOAT_BITS, shape.weight_bits),
        "activation_bits": min(FLOAT_BITS, shape.activation_bits),
    }


def _two(sizes: tuple[int, ...]) -> list[int]:
    return [*sizes, *[1] * (2 - len(sizes))]


def _described(field: str, given: str, folder: Path | None) -> str:
    """A name of ZigZag's, or the path of a file of the user's."""
    if not given.endswith((".yaml", ".yml")):
        if field == "accelerator" and given not in ACCELERATORS:
            raise TargetError(
                f"target.{field}: got {given!r}, expected {', '.join(ACCELERATORS)} or a YAML file"
            )
        return given
    path = (folder or Path.cwd()) / given
    if not path.is_file():
        raise TargetError(f"target.{field}: there is no file {path}")
    return str(path)


def _content(description: str) -> str:
    """What a description says: a name stands for itself."""
    path = Path(description)
    return path.read_text(encoding="utf-8") if path.suffix in (".yaml", ".yml") else description
