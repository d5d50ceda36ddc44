"""Quantization: per layer, how many bits its weight and its input have, and whether training knows about it.

Post-training (`ptq`): the trained weights are rounded and activation ranges are read off training inputs.
Quantization-aware (`qat`): training already computes with rounded numbers, which is what few bits need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.nn.utils import parametrize

from autoprune.compress.calibrate import calibrate
from autoprune.compress.factorize import origin
from autoprune.compress.fake_quantize import wrap_for_training
from autoprune.compress.technique import Context, Technique
from autoprune.deployed import deploy, layer_kind
from autoprune.deployed.quantizers import FLOAT_BITS
from autoprune.errors import ModelError, TargetError
from autoprune.references import nearest
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
        activation_bits: options of `quantize.<layer>.activation_bits`: the bits of the layer's input; read only
            when its weight is quantized, for with a float weight nothing is gained.
        aware: options of `quantize.aware`, `ptq` and `qat`; read only when something is quantized and trained.
        include: patterns of layer names that may be quantized; empty means all.
        exclude: patterns of layer names that stay float.
        fixed: pattern of layer names -> bits of their weights in every candidate: these layers are no choice. Their
            inputs have eight bits where the weights have eight or fewer, and stay float otherwise.
    """

    name = "quantize"

    def __init__(
        self,
        weight_bits: Options = Options((8, 32), neutral=32),  # noqa: B008  (immutable)
        activation_bits: Options = Options((8, 32), neutral=32),  # noqa: B008
        aware: Options = Options(("ptq", "qat"), neutral="ptq"),  # noqa: B008
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        fixed: Mapping[str, int] | None = None,
    ) -> None:
        self.weight_bits, self.activation_bits, self.aware = weight_bits, activation_bits, aware
        self.include, self.exclude, self.fixed = include, exclude, dict(fixed or {})

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """Two choices for each layer, and `quantize.aware`.

        Raises:
            TargetError: the target can run none of the options asked for, or not the bits of a fixed layer.
            ModelError: a pattern of `fixed` fits no layer that can be quantized.
        """
        self._check_fixed(model, target)
        weight_bits = _legal("weight_bits", self.weight_bits, target.weight_bits)
        activation_bits = _legal("activation_bits", self.activation_bits, target.activation_bits)
        found: dict[str, Choice] = {}
        for layer, reason in self._layers(model):
            if not reason and self._fixed_bits(layer) is None:
                found[f"quantize.{layer}.weight_bits"] = weight_bits
                found[f"quantize.{layer}.activation_bits"] = activation_bits
        rounds = found or any(bits < FLOAT_BITS for bits in self._all_fixed(model).values())
        return {**found, AWARE: self.aware} if rounds else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:  # noqa: ARG002
        """Every layer with weights: `reason` is empty for those that can be quantized; `fixed` are its weight's bits
        where the user fixed them."""
        layers = [
            {
                "name": name,
                "kind": type(model.get_submodule(name)).__name__,
                "reason": reason,
                "fixed": None if reason else self._fixed_bits(origin(model, name)),
            }
            for name, reason in self._layers(model)
        ]
        return {"layers": layers}

    def _layers(self, model: nn.Module) -> Iterator[tuple[str, str]]:
        """Name and reason not to quantize (empty: none) of every module that holds parameters itself."""
        for name, module in model.named_modules():
            if not any(True for _ in module.parameters(recurse=False)) or name.endswith(".parametrizations"):
                continue
            whole = origin(model, name)
            if reason := why_float(model, name):
                yield name, reason
            elif self._fixed_bits(whole) is not None:
                yield name, ""
            elif self.include and not _matches(whole, self.include):
                yield name, "not included"
            elif _matches(whole, self.exclude):
                yield name, "excluded"
            else:
                yield name, ""

    def _fixed_bits(self, layer: str) -> int | None:
        return next((bits for pattern, bits in self.fixed.items() if fnmatchcase(layer, pattern)), None)

    def _all_fixed(self, model: nn.Module) -> dict[str, int]:
        """Layer -> bits of its weight, where these are no choice."""
        layers = [layer for layer, reason in self._layers(model) if not reason]
        fixed = {layer: self._fixed_bits(origin(model, layer)) for layer in layers}
        return {layer: bits for layer, bits in fixed.items() if bits is not None}

    def _check_fixed(self, model: nn.Module, target: Target) -> None:
        layers = [layer for layer, reason in self._layers(model) if not reason]
        for pattern, bits in self.fixed.items():
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise ModelError(
                    f"space.quantize.fixed: no layer that can be quantized is called {pattern!r}"
                    f"{nearest(pattern, layers)}"
                )
            if bits not in target.weight_bits or _input_bits(bits) not in target.activation_bits:
                raise TargetError(
                    f"space.quantize.fixed.{pattern}: the target cannot run {bits} bits; it takes "
                    f"{', '.join(map(str, target.weight_bits))}"
                )

    def bits(self, model: nn.Module, choices: Choices) -> dict[str, tuple[int, int]]:
        """(weight bits, activation bits) of each layer that does not stay float; both factors of one have its bits."""
        fixed = self._all_fixed(model)
        found = {layer: (bits, _input_bits(bits)) for layer, bits in fixed.items() if bits < FLOAT_BITS}
        for layer, reason in self._layers(model):
            if reason or layer in fixed:
                continue
            whole = origin(model, layer)
            weight_bits = int(choices.number(f"quantize.{whole}.weight_bits", FLOAT_BITS))
            if weight_bits < FLOAT_BITS:
                activation_bits = int(choices.number(f"quantize.{whole}.activation_bits", FLOAT_BITS))
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


def _input_bits(weight_bits: int) -> int:
    """The bits of the input of a layer whose weight has a fixed number of them."""
    return 8 if weight_bits <= 8 else FLOAT_BITS


def why_float(model: nn.Module, name: str) -> str:
    """Why a module that holds parameters cannot be quantized; empty if it can."""
    module, parent = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads its weight past the layer"
    if layer_kind(module):
        return "" if name else "the network is this layer: put it into an nn.Sequential"
    if parametrize.is_parametrized(module) or ".parametrizations." in name or module._forward_pre_hooks:
        return "its weight is computed in each call (a parametrization)"
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return f"{type(module).__name__} with a forward or padding of its own"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "it looks rows up and multiplies nothing"
    if isinstance(module, nn.RNNBase):
        return "recurrent: what it multiplies lies inside of its loop"
    if "norm" in type(module).__name__.lower():
        return "it normalises, which stays float"
    return "its parameters are read by functions, not by a layer of torch.nn"


def _inputs(context: Context) -> Iterator[Any]:
    """Some training inputs, shuffled: splits may be sorted by class."""
    batches = context.data.train.batches(CALIBRATION_BATCH, shuffle=context.seed)
    for batch in islice(batches, CALIBRATION_BATCHES):
        yield batch.inputs
