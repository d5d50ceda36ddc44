"""Quantization: per layer, how many bits its weight and its input have, and how what they hold is found.

    ptq        after training: trained weights are rounded, activation ranges are read off training inputs
    qat        training already computes with rounded numbers, which is what few bits need
    lsq        the same, and the distances between rounded numbers are learned too (see `lsq`)
    codebook   a weight's entries share 2^bits values, which are learned one by one (see `codebook`)

Without any training, `qat` and `lsq` are `ptq`, and the values of a `codebook` are those of k-means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.nn.utils import parametrize

from autoprune.compress.bias_correction import correct_biases
from autoprune.compress.calibrate import coarsen_biases, find_ranges, quantizers_in, round_biases
from autoprune.compress.codebook import SharedValues
from autoprune.compress.factorize import origin
from autoprune.compress.fake_quantize import Fit, Rounding, wrap_for_training
from autoprune.compress.lsq import LearnedSteps, carry_steps
from autoprune.compress.store import coding_of
from autoprune.compress.technique import Context, Technique
from autoprune.deployed import Widths, deploy, layer_kind
from autoprune.deployed.quantizers import (
    CODEBOOK,
    FIXED_POINT,
    FLOAT_BITS,
    HALF_BITS,
    INTEGER_BITS,
    PER_CHANNEL,
    ActivationQuantizer,
    holds_codes,
)
from autoprune.errors import ModelError, SpecError, TargetError
from autoprune.references import matches, nearest
from autoprune.space import Choice, Choices, Options
from autoprune.task import example_inputs

if TYPE_CHECKING:
    from autoprune.spec.techniques import QuantizeSpace
    from autoprune.targets import Target

QUANTIZER, CALIBRATION = "quantize.quantizer", "quantize.calibration"
GRANULARITY, CORRECTION = "quantize.granularity", "quantize.bias_correction"
# What the float weights of a trained network are to the rounded ones: these were not trained to round.
ROUNDED_AFTERWARDS = ("ptq", "codebook")
CALIBRATION_BATCH = 64
CALIBRATION_BATCHES = 2


class Quantize(Technique):
    """Choose bits for each convolution and linear layer: 2 to 8, 16 (half precision) or 32 (as it is).

    Where the target computes in fixed point (`target.fixed_point`), they are 2 to 16 bits of fixed-point numbers.

    Args:
        weight_bits: options of `quantize.<layer>.weight_bits`; those that the target cannot run are left out.
        activation_bits: options of `quantize.<layer>.activation_bits`: the bits of the layer's input; read only
            when its weight is quantized, for with a float weight nothing is gained.
        quantizer: options of `quantize.quantizer`: `ptq`, `qat`, `lsq`, `codebook`; read only when something is
            quantized. 16 and 32 bits are floats, whatever the quantizer.
        calibration: options of `quantize.calibration`, how ranges of activations are found (see `calibrate`); read
            only where activations are rounded and training did not learn their steps.
        granularity: options of `quantize.granularity`: a scale `per_channel` of a weight or one `per_tensor`; read
            only where weights have 2 to 8 bits and no codebook.
        bias_correction: options of `quantize.bias_correction`, whether biases make up for what rounding shifts (see
            `bias_correction`); read only by `ptq` and `codebook`.
        include: patterns of layer names that may be quantized; empty means all.
        exclude: patterns of layer names that stay float.
        fixed: pattern of layer names -> bits of their weights in every candidate: these layers are no choice. Their
            inputs have eight bits where the weights have eight or fewer; otherwise they stay float, or have 16 bits
            where the target computes in fixed point.
    """

    name = "quantize"

    def __init__(
        self,
        weight_bits: Options = Options((8, 32), neutral=32),  # noqa: B008  (immutable)
        activation_bits: Options = Options((8, 32), neutral=32),  # noqa: B008
        quantizer: Options = Options(("ptq", "qat"), neutral="ptq"),  # noqa: B008
        calibration: Options = Options(("mse",), neutral="mse"),  # noqa: B008
        granularity: Options = Options((PER_CHANNEL,), neutral=PER_CHANNEL),  # noqa: B008
        bias_correction: Options = Options((False,), neutral=False),  # noqa: B008
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        fixed: Mapping[str, int] | None = None,
    ) -> None:
        self.weight_bits, self.activation_bits, self.quantizer = weight_bits, activation_bits, quantizer
        self.calibration, self.granularity, self.bias_correction = calibration, granularity, bias_correction
        self._rounding: Rounding | None = None
        self._structure: dict[str, Any] = {}
        self.include, self.exclude, self.fixed = include, exclude, dict(fixed or {})

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """Two choices for each layer, and how all of them are quantized.

        Raises:
            SpecError: a quantizer that needs 2 to 8 bits, and no layer may have them.
            TargetError: the target can run none of the options asked for, or not the bits of a fixed layer.
            ModelError: a pattern of `fixed` fits no layer that can be quantized, or none is there for the quantizer.
        """
        self._check_quantizer(model)
        self._check_fixed_point(target)
        self._check_fixed(model, target)
        weight_bits = _legal("weight_bits", self.weight_bits, target.weight_bits)
        activation_bits = _legal("activation_bits", self.activation_bits, target.activation_bits)
        found: dict[str, Choice] = {}
        for layer, reason in self._layers(model):
            if not reason and self._fixed_bits(layer) is None:
                found[f"quantize.{layer}.weight_bits"] = weight_bits
                found[f"quantize.{layer}.activation_bits"] = activation_bits
        rounds = found or any(bits < FLOAT_BITS for bits in self._all_fixed(model).values())
        if not rounds:
            return {}
        whole = {QUANTIZER: self.quantizer, CALIBRATION: self.calibration}
        granularity = Options((FIXED_POINT,), FIXED_POINT) if is_fixed_point(target) else self.granularity
        return {**found, **whole, GRANULARITY: granularity, CORRECTION: self.bias_correction}

    def _check_fixed_point(self, target: Target) -> None:
        """Refuse quantizers whose steps are no powers of two where the target needs them."""
        others = [str(name) for name in self.quantizer.values if name in (CODEBOOK, "lsq")]
        if others and is_fixed_point(target):
            raise TargetError(
                f"space.quantize.quantizer: the target computes in fixed point, which {' and '.join(others)} cannot "
                "keep to; ptq and qat can"
            )

    def _check_quantizer(self, model: nn.Module) -> None:
        """Refuse quantizers that could do nothing to this network."""
        names = [str(name) for name in self.quantizer.values if name in (CODEBOOK, "lsq")]
        bits = [*self.weight_bits.values, *self.fixed.values()]
        if names and not any(int(width) <= INTEGER_BITS for width in bits):
            raise SpecError(
                [
                    f"space.quantize.quantizer: got {name!r}, expected weights of 2 to 8 bits with it: "
                    f"space.quantize.weight_bits has {', '.join(map(str, self.weight_bits.values))}"
                    for name in names
                ]
            )
        reasons = [reason for _, reason in self._layers(model)]
        if len(names) == len(self.quantizer.values) and all(reasons):
            told = f": {reasons[0]}" if reasons else ""
            raise ModelError(
                f"space.quantize.quantizer: the model has no layer for {' and '.join(names)}{told}; leave "
                "space.quantize out, or include a linear layer or a convolution of torch.nn"
            )

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:  # noqa: ARG002
        """Every layer with weights: `reason` is empty for those that can be quantized; `fixed` are its weight's bits
        where the user fixed them. `notes` say what is not as one might expect."""
        layers = [
            {
                "name": name,
                "kind": type(model.get_submodule(name)).__name__,
                "reason": reason,
                "fixed": None if reason else self._fixed_bits(origin(model, name)),
            }
            for name, reason in self._layers(model)
        ]
        return {"layers": layers, "notes": self._notes()}

    def _notes(self) -> list[str]:
        bits = [*self.activation_bits.values, *(_input_bits(width, False) for width in self.fixed.values())]
        if CODEBOOK in self.quantizer and any(int(width) < FLOAT_BITS for width in bits):
            return [
                "codebook: layers multiply in floating point, also where their inputs are rounded to integers: no "
                "integer kernel takes values that are not evenly spaced"
            ]
        return []

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
            elif self.include and not matches(whole, self.include):
                yield name, "not included"
            elif matches(whole, self.exclude):
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
            input_bits = _input_bits(bits, is_fixed_point(target))
            if bits not in target.weight_bits or input_bits not in target.activation_bits:
                raise TargetError(
                    f"space.quantize.fixed.{pattern}: the target cannot run {bits} bits; it takes "
                    f"{', '.join(map(str, target.weight_bits))}"
                )

    def bits(self, model: nn.Module, choices: Choices) -> dict[str, tuple[int, int]]:
        """`Widths` of each layer that does not stay float; both factors of one have its bits."""
        fixed, is_fixed_point = self._all_fixed(model), choices.values_unread.get(GRANULARITY) == FIXED_POINT
        found = {
            layer: (bits, _input_bits(bits, is_fixed_point))
            for layer, bits in fixed.items()
            if bits < FLOAT_BITS
        }
        for layer, reason in self._layers(model):
            if reason or layer in fixed:
                continue
            whole = origin(model, layer)
            weight_bits = int(choices.number(f"quantize.{whole}.weight_bits", FLOAT_BITS))
            if weight_bits < FLOAT_BITS:
                activation_bits = int(choices.number(f"quantize.{whole}.activation_bits", FLOAT_BITS))
                found[layer] = (weight_bits, activation_bits)
        form = self._form(choices, [width for width, _ in found.values()])
        return {layer: Widths(*widths, form) for layer, widths in found.items()}

    def _form(self, choices: Choices, widths: Iterable[int]) -> str:
        """The form in which weights that are integers are stored, if any of these are."""
        form = str(choices.values_unread.get(GRANULARITY, PER_CHANNEL))
        if not any(holds_codes(width, form) for width in widths):
            return PER_CHANNEL
        if choices.text(QUANTIZER, "ptq") == CODEBOOK:
            return CODEBOOK
        return choices.text(GRANULARITY, PER_CHANNEL)

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Make room for the steps that were learned."""
        carry_steps(model, context.structure.get(self.name, {}).get("learned", {}))
        return model

    def wrap(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """The network with rounded weights and activations in place; for `ptq` the network itself."""
        self._rounding = None
        bits = self.bits(model, choices)
        quantizer = choices.text(QUANTIZER, "ptq") if bits else "ptq"
        if quantizer == "ptq":
            return model
        self._structure = context.structure.setdefault(self.name, {})
        if quantizer == "lsq":
            self._rounding = LearnedSteps(self._structure.get("learned"))
        else:
            self._rounding = SharedValues() if quantizer == CODEBOOK else Rounding(_fit(context.target))
        return wrap_for_training(model, bits, example_inputs(context.data), self._rounding)

    def on_step(self, model: nn.Module, step: int, total: int) -> None:  # noqa: ARG002
        """Keep what was learned where a checkpoint finds it."""
        if self._rounding is None:
            return
        self._rounding.on_step(step / total)
        if learned := self._rounding.learned:
            self._structure["learned"] = learned

    def finalize(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """A quantized copy: BatchNorm folded, weights rounded, activations calibrated on training inputs.

        Where training learned the steps of weights and activations, these are taken. Without anything to quantize, the
        network as it is.
        """
        self._rounding = None
        bits = self.bits(model, choices)
        if not bits:
            return model
        example = example_inputs(context.data)
        deployed = deploy(model, bits, example)
        record = {
            "layers": {layer: {"weight_bits": w, "activation_bits": a} for layer, (w, a) in bits.items()},
            "quantizer": choices.text(QUANTIZER, "ptq"),
            "fallback": not isinstance(deployed, fx.GraphModule),
        }
        if learned := context.structure.get(self.name, {}).get("learned"):
            record["learned"] = learned
        self._settle(deployed, model, bits, choices, context, record)
        context.structure[self.name] = record
        return deployed

    def _settle(
        self,
        deployed: nn.Module,
        model: nn.Module,
        bits: Mapping[str, tuple[int, int]],
        choices: Choices,
        context: Context,
        record: dict[str, Any],
    ) -> None:
        """Ranges of activations and biases of a deployed network, in place; what was done goes into `record`."""
        learned = record.get("learned", {}).get("activations", {})
        inputs = list(_inputs(context))
        known = {path: (float(scale), float(zero)) for path, (scale, zero) in learned.items()}
        if quantizers_in(deployed).keys() - known.keys():
            method = choices.text(CALIBRATION, "mse")
            find_ranges(deployed, inputs, method, known, _fit(context.target))
            record["calibration"] = {"examples": CALIBRATION_BATCH * CALIBRATION_BATCHES, "method": method}
        else:
            find_ranges(deployed, (), known=known)
        is_afterwards = record["quantizer"] in ROUNDED_AFTERWARDS
        if is_afterwards and CORRECTION in choices and bool(choices[CORRECTION]):
            whole = dict.fromkeys(bits, (FLOAT_BITS, FLOAT_BITS))
            correct_biases(deployed, deploy(model, whole, example_inputs(context.data)), inputs)
            record["bias_correction"] = True
        round_biases(deployed)
        if coding_of(context.structure) != "none":
            coarsen_biases(deployed)


def is_fixed_point(target: Target) -> bool:
    """Whether the scales of a target's numbers are powers of two."""
    return bool(getattr(target, "fixed_point", False))


def _fit(target: Target) -> Fit:
    return ActivationQuantizer.set_fixed_point if is_fixed_point(target) else ActivationQuantizer.set_range


def illegal_bits(asked: QuantizeSpace | None, target: Target) -> list[str]:
    """One line for each list of bits that the user gave with some that a target cannot run; defaults just lack them."""
    problems = []
    for field in ("weight_bits", "activation_bits"):
        legal = getattr(target, field)
        options = getattr(asked, field).values if asked and field in asked.model_fields_set else ()
        if wrong := [str(value) for value in options if value not in legal]:
            problems.append(
                f"space.quantize.{field}: the target cannot run {', '.join(wrong)} bits; it takes "
                f"{', '.join(map(str, legal))}"
            )
    return problems


def _legal(field: str, options: Options, legal: Iterable[int]) -> Options:
    """The options that a target can run."""
    values = tuple(value for value in options.values if value in tuple(legal))
    if not values:
        raise TargetError(
            f"space.quantize.{field}: the target can run none of {', '.join(map(str, options.values))}; "
            f"it takes {', '.join(map(str, legal))}"
        )
    return Options(values, options.neutral)


def _input_bits(weight_bits: int, is_fixed_point: bool) -> int:
    """The bits of the input of a layer whose weight has a fixed number of them."""
    if weight_bits <= INTEGER_BITS:
        return INTEGER_BITS
    return HALF_BITS if is_fixed_point else FLOAT_BITS


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
