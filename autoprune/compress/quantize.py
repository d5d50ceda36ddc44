"""Quantization: per layer, how many bits its weight and its input have, and whether training knows about it.

Post-training (`ptq`): the trained weights are rounded and activation ranges are read off training inputs.
Quantization-aware (`qat`): training already computes with rounded numbers, which is what few bits need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from autoprune.compress.calibrate import calibrate
from autoprune.compress.fake_quantize import wrap_for_training
from autoprune.compress.technique import Context, Technique
from autoprune.deployed import deploy, layer_kind
from autoprune.deployed.quantizers import FLOAT_BITS
from autoprune.errors import TargetError
from autoprune.space import Choice, Choices, Options
from autoprune.task import example_inputs

if TYPE_CHECKING:
    from autoprune.targets import Target

AWARE = "quantize.aware"
CALIBRATION_BATCH = 64
CALIBRATION_BATCHES = 2


class Quantize(Technique):
    """Choose bits for each convolution and linear layer: 2 to 8, 16 (half precision) or 32 (as it is).

    Args:
        weight_bits: options of `quantize.<layer>.weight_bits`; those that the target cannot run are left out.
        activation_bits: options of `quantize.<layer>.activation_bits`: the bits of the layer's input; read
        only
            when its weight is quantized, for with a float weight nothing is gained.
        aware: options of `quantize.aware`, `ptq` and `qat`; read only when something is quantized and
        trained. include: patterns of layer names that may be quantized; empty means all. exclude: patterns of
        layer names that stay float.
    """

    name = "quantize"

    def __init__(
        self,
        weight_bits: Options = Options((8, 32), neutral=32),  # noqa: B008  (immutable)
        activation_bits: Options = Options((8, 32), neutral=32),  # noqa: B008
        aware: Options = Options(("ptq", "qat"), neutral="ptq"),  # noqa: B008
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> None:
        self.weight_bits, self.activation_bits, self.aware = weight_bits, activation_bits, aware
        self.include, self.exclude = include, exclude

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """Two choices for each layer, and `quantize.aware`.

        Raises:
            TargetError: the target can run none of the options asked for.
        """
        weight_bits = _legal("weight_bits", self.weight_bits, target.weight_bits)
        activation_bits = _legal("activation_bits", self.activation_bits, target.activation_bits)
        found: dict[str, Choice] = {}
        for layer, reason in self._layers(model):
            if not reason:
                found[f"quantize.{layer}.weight_bits"] = weight_bits
                found[f"quantize.{layer}.activation_bits"] = activation_bits
        return {**found, AWARE: self.aware} if found else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:  # noqa: ARG002
        """The layers that can be quantized, and why others cannot."""
        layers = [
            {"name": name, "kind": type(model.get_submodule(name)).__name__, "reason": reason}
            for name, reason in self._layers(model)
        ]
        return {"layers": layers}

    def _layers(self, model: nn.Module) -> Iterator[tuple[str, str]]:
        """Name and reason not to quantize (empty: none) of every layer that multiplies with a weight."""
        for name, module in model.named_modules():
            # nn.MultiheadAttention reads its weights itself, past the layer that holds them.
            if (
                not name
                or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
                or _is_in_attention(model, name)
            ):
                continue
            if not layer_kind(module):
                yield name, f"{type(module).__name__} with a forward or padding of its own"
            elif self.include and not _matches(name, self.include):
                yield name, "not included"
            elif _matches(name, self.exclude):
                yield name, "excluded"
            else:
                yield name, ""

    def bits(self, model: nn.Module, choices: Choices) -> dict[str, tuple[int, int]]:
        """(weight bits, activation bits) of each layer that does not stay float."""
        found = {}
        for layer, _ in self._layers(model):
            weight_bits = int(choices.number(f"quantize.{layer}.weight_bits", FLOAT_BITS))
            if weight_bits < FLOAT_BITS:
                activation_bits = int(choices.number(f"quantize.{layer}.activation_bits", FLOAT_BITS))
                found[layer] = (weight_bits, activation_bits)
        return found

    def wrap(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """For `qat` the network with fake-quantizers in place, for `ptq` the network itself."""
        bits = self.bits(model, choices)
        if not bits or choices.text(AWARE, "ptq") == "ptq":
            return model
        return wrap_for_training(model, bits, example_inputs(context.data))

    def finalize(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """A quantized copy: BatchNorm folded, weights rounded, activations calibrated on training inputs.

        Without anything to quantize, the network as it is.
        """
        bits = self.bits(model, choices)
        if not bits:
            return model
        deployed = deploy(model, bits, example_inputs(context.data))
        calibrate(deployed, _inputs(context))
        context.structure[self.name] = {
            "layers": {layer: {"weight_bits": w, "activation_bits": a} for layer, (w, a) in bits.items()},
            "calibration": {
                "examples": CALIBRATION_BATCH * CALIBRATION_BATCHES,
                "method": "least squared error",
            },
            "fallback": not isinstance(deployed, fx.GraphModule),
        }
        return deployed


def _legal(field: str, options: Options, legal: Iterable[int]) -> Options:
    """The options that a target can run."""
    values = tuple(value for value in options.values if value in tuple(legal))
    if not values:
        raise TargetError(
            f"space.quantize.{field}: the target can run none of {', '.join(map(str, options.values))}; "
            f"it takes {', '.join(map(str, legal))}"
        )
    return Options(values, options.neutral)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_in_attention(model: nn.Module, name: str) -> bool:
    parent = name.rpartition(".")[0]
    return isinstance(model.get_submodule(parent), nn.MultiheadAttention)


def _inputs(context: Context) -> Iterator[Any]:
    """Some training inputs, shuffled: splits may be sorted by class."""
    batches = context.data.train.batches(CALIBRATION_BATCH, shuffle=context.seed)
    for batch in islice(batches, CALIBRATION_BATCHES):
        yield batch.inputs
