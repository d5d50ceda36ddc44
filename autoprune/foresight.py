"""What a worker finds out about a space before the first trial: what its points cost, and how much they damage.

The driver asks (`search.preview`), one question at a time and spread over the workers; answers are plain data. Nothing
here is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from autoprune.candidate import bits_of, check_runs, finalized, make, shapes_of
from autoprune.compress.calibrate import calibrate
from autoprune.compress.factorize import origin
from autoprune.compress.prune import Prune
from autoprune.compress.technique import Context, Technique
from autoprune.cost import cost_terms, count, layer_table
from autoprune.deployed import deploy, layer_kind
from autoprune.errors import NoNetwork
from autoprune.proxies import scores
from autoprune.sensitivity import Calibration, Damage, estimates, fisher
from autoprune.space import ARCHITECTURE, Choices, Space, Value
from autoprune.structure import Group
from autoprune.structure.parametrize import make_model
from autoprune.targets import Measurement, Runnable
from autoprune.targets.latency_table import LatencyTable
from autoprune.task import Batch, Split, example_inputs
from autoprune.task.collate import join, length
from autoprune.tensors import Inputs, call, fingerprint, raw_bytes, tensors_in

FORMAT = 3  # of the answers: raise it whenever one of them changes, so that none is taken from a cache
INTEGER = (8, 8)
SCORED = 32  # examples that proxies see
SAMPLE, PART = 128, 16  # examples that techniques see before the first trial, and how many lie together

Point = Mapping[str, Value]


class Foresight:
    """Answers about one task on one target.

    Args:
        techniques: in the order in which they are applied.
        context: makes a fresh context for a candidate.
    """

    def __init__(self, techniques: Sequence[Technique], context: Callable[[], Context]) -> None:
        self._techniques, self._context = techniques, context
        self._base = context()
        self._example = example_inputs(self._base.data)
        self._calibration: Calibration | None = None
        self._table = LatencyTable(self._base.target)
        self._costs: dict[str, tuple[int, int]] | None = None
        self._samples: dict[int, Sample] = {}
        self._scores: dict[str, dict[str, float] | None] = {}  # architecture -> what proxies say of it

    def key(self, space: Mapping[str, Any]) -> str:
        """What all answers depend on, in a few letters: weights, a sample of the data, space, target and settings."""
        digest = hashlib.sha256(json.dumps([FORMAT, space], sort_keys=True).encode())
        target = self._base.target
        digest.update(f"{type(target).__qualname__} {getattr(target, 'channel_multiple', 1)}".encode())
        digest.update(getattr(target, "machine_key", lambda: "")().encode())
        for model in (self._base.reference, self._base.shared):
            digest.update(fingerprint(model).encode() if isinstance(model, nn.Module) else b"")
        for batch in self._calibrated().batches:
            for tensor in tensors_in([batch.inputs, batch.targets]):
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()[:32]

    # -- costs ---------------------------------------------------------------------------------------------------

    def terms(self, space: Mapping[str, Any]) -> dict[str, Any]:
        """The data of `search.prices.Prices`, without what the driver fits, and without depth and ranks."""
        choices = Space.from_json(space)
        model, groups = self._base.reference, self._groups(self._base.reference)
        terms = cost_terms(model, self._example, [group for _, group in groups])
        total = count(model, self._example)["macs"]
        data: dict[str, Any] = {
            "terms": terms,
            "groups": {group.name: _sizes(choice, group) for choice, group in groups},
            "channel_multiple": getattr(self._base.target, "channel_multiple", 1),
            "bits": self._bits(model, choices),
            "elsewhere": total - sum(term["macs"] for term in terms),
            "attention": _attention([group for _, group in groups]),
            "factors": {},
        }
        for name in choices:
            if name.startswith(ARCHITECTURE):
                self._add_variants(data, name, choices)
        return data

    def changed(self, choice: str, value: Value) -> dict[str, tuple[float, float]]:
        """Layer -> by which factors its MACs and parameters change when one choice alone has this value."""
        made, _ = self._shape(Choices({choice: value}))
        return _factors(self._layer_costs(), _layer_costs(made, self._example))

    def price(self, point: Point) -> dict[str, float] | None:
        """The exact costs of a point; None where it cannot be made."""
        choices = Choices(point)
        try:
            model, _ = self._shape(choices)
            return count(model, self._example, bits_of(self._techniques, model, choices))
        except Exception:  # whatever a point breaks is for its trial to tell
            return None

    def _layer_costs(self) -> dict[str, tuple[int, int]]:
        if self._costs is None:
            self._costs = _layer_costs(self._base.reference, self._example)
        return self._costs

    def _groups(self, model: nn.Module) -> list[tuple[str, Group]]:
        """(choice of its ratio, group) of each group that can be pruned."""
        return [
            pair
            for technique in self._techniques
            if isinstance(technique, Prune)
            for pair in technique.prunable(model, self._example)
        ]

    def _bits(self, model: nn.Module, choices: Space) -> dict[str, tuple[str | int, str | int]]:
        """For each layer its bits, or the names of the choices that say them."""
        fixed = bits_of(self._techniques, model, Choices({}))
        found: dict[str, tuple[str | int, str | int]] = dict(fixed)
        for name in choices:
            if name.startswith("quantize.") and name.endswith(".weight_bits"):
                layer = name.removeprefix("quantize.").removesuffix(".weight_bits")
                found[layer] = (name, f"quantize.{layer}.activation_bits")
        return found

    def _add_variants(self, data: dict[str, Any], name: str, choices: Space) -> None:
        """Enter what each value of an architecture option changes; layers that only it has become new terms."""
        neutral = choices[name].neutral
        values = [value for value in getattr(choices[name], "values", ()) if value != neutral]
        made = {value: self._variant({name.removeprefix(ARCHITECTURE): value}) for value in values}
        variants = {value: model for value, model in made.items() if model is not None}
        shapes = shapes_of(self._base.reference)
        base, known = dict(self._layer_costs()), {term["layer"] for term in data["terms"]}
        for value, model in variants.items():
            if shapes_of(model).items() <= shapes.items():
                continue  # it only lacks layers: groups have the sizes that they have
            groups = self._groups(model)
            for choice, group in groups:
                entry = data["groups"].setdefault(group.name, _sizes(choice, group))
                entry["units_at"].setdefault(name, [(neutral, entry["units"])]).append((value, group.units))
            costs = _layer_costs(model, self._example)
            terms = cost_terms(model, self._example, [group for _, group in groups])
            data["terms"] += [term for term in terms if term["layer"] not in known]
            base.update({layer: cost for layer, cost in costs.items() if layer not in base})
            known |= costs.keys()
        pairs = [(neutral, _factors(base, self._layer_costs()))]
        pairs += [(value, _factors(base, _layer_costs(m, self._example))) for value, m in variants.items()]
        if any(factors for _, factors in pairs):
            data["factors"][name] = pairs

    def _variant(self, arguments: Mapping[str, Any]) -> nn.Module | None:
        """The network with one option on its own; None where there is none."""
        try:
            with torch.random.fork_rng(devices=[]):
                model = make_model(self._base.task, arguments).eval()
            check_runs(model, arguments, self._example)
        except NoNetwork:
            return None
        return model

    # -- quality -------------------------------------------------------------------------------------------------

    def scores(self, architecture: Mapping[str, Value]) -> dict[str, float] | None:
        """What training-free proxies say of an architecture, freshly made; None where it makes no network."""
        key = json.dumps(architecture, sort_keys=True)
        if key not in self._scores:
            batch = next(self._sample(SCORED).batches(SCORED))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._base.seed)
                try:
                    self._scores[key] = scores(
                        make_model(self._base.task, architecture), self._base.task, batch
                    )
                except Exception:  # whatever an architecture breaks is for its trial to tell
                    self._scores[key] = None
        return self._scores[key]

    # -- damage --------------------------------------------------------------------------------------------------

    def estimated(self, space: Mapping[str, Any]) -> Damage:
        """What single choices should damage, from a few backward passes; see `sensitivity.estimates`."""
        model = self._base.reference
        return estimates(model, fisher(model, self._base), Space.from_json(space), self._groups(model))

    def damage(self, point: Point) -> float | None:
        """How far the outputs of a point are from the reference's before any training; None where it cannot be made."""
        choices, context = Choices(point), self._context()
        context.data = replace(context.data, train=self._sample(SAMPLE))
        try:
            model = make(self._techniques, choices, context)
            is_cut = shapes_of(model) != shapes_of(self._base.reference)
            if is_cut:
                self._calibrated().mend(model)
            model = finalized(self._techniques, model, choices, context)
            floor = self._calibrated().floor if is_cut else 0.0
            return max(0.0, self._calibrated().distance(model) - floor)
        except Exception:  # whatever a point breaks is for its trial to tell
            return None

    def _sample(self, examples: int) -> Sample:
        """A few training examples for techniques that look at some: what they choose by them does for a first look."""
        if examples not in self._samples:
            self._samples[examples] = Sample(self._base.data.train, examples, self._base.seed)
        return self._samples[examples]

    def _shape(self, choices: Choices) -> tuple[nn.Module, Context]:
        """A candidate of which only the shapes matter: its techniques see next to no data."""
        context = self._context()
        context.data = replace(context.data, train=self._sample(PART))
        return make(self._techniques, choices, context), context

    def _calibrated(self) -> Calibration:
        if self._calibration is None:
            self._calibration = Calibration(self._base)
        return self._calibration

    # -- milliseconds --------------------------------------------------------------------------------------------

    def time_layer(self, layer: str, reads: float, writes: float, integer: bool) -> float | None:
        """Milliseconds of one layer alone at these shares of its inputs and outputs; None where it has no such form."""
        module, given = self._base.reference.get_submodule(layer), self._input_of(layer)
        made = None if given is None else resized(module, given, reads, writes)
        if made is None:
            return None
        alone, example = made
        signature = f"{_signature(alone[0])} {list(example.shape)} {'integer, read' if integer else 'float'}"
        known = self._table.get(signature)
        if known is None:
            try:
                found = self._timed(in_integers(alone, example) if integer else alone, example)
            except Exception:  # a layer that the target does not run alone is left out of the table
                return None
            known = found.latency_ms
            self._table.put(signature, known, lasting=not found.unstable)
        return known

    def time_point(self, point: Point, brief: bool = True) -> float | None:
        """Milliseconds of the whole network of a point, untrained; None where it cannot be made.

        Args:
            point: all choices.
            brief: measure in a quarter of the time that a trial is measured for, if that is steady.
        """
        choices = Choices(point)
        try:
            model, context = self._shape(choices)
            network = finalized(self._techniques, model, choices, context)
            found = self._timed(network, self._example, brief=brief)
            if found.unstable and brief:
                found = self._timed(network, self._example, brief=False)
            return found.latency_ms
        except Exception:  # whatever a point breaks is for its trial to tell
            return None

    def _timed(self, model: nn.Module, example: Inputs, *, brief: bool = True) -> Measurement:
        target = self._base.target
        measure: Callable[[Runnable, Inputs], Measurement] = target.measure
        if brief:
            measure = getattr(target, "measure_briefly", measure)
        return measure(target.build(model, example), example)

    def _input_of(self, layer: str) -> torch.Tensor | None:
        """What a layer of the reference gets when it is called for the example; None if it is not called."""
        seen: list[torch.Tensor] = []
        module = self._base.reference.get_submodule(layer)
        hook = module.register_forward_pre_hook(lambda _, given: seen.extend(tensors_in(given)[:1]))
        try:
            with torch.no_grad():
                call(self._base.reference, self._example)
        finally:
            hook.remove()
        return seen[0] if seen else None


class Sample:
    """A few examples of a split, held in memory.

    Args:
        split: where they are from.
        examples: how many, as far as there are so many.
        seed: of the draw.
    """

    def __init__(self, split: Split, examples: int, seed: int) -> None:
        self._batches = list(islice(split.batches(PART, shuffle=seed), max(1, examples // PART)))

    def __len__(self) -> int:
        return sum(length(batch.targets) for batch in self._batches)

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """The examples in batches; with a seed, sixteen by sixteen in an order drawn by it."""
        order = torch.arange(len(self._batches))
        if shuffle is not None:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(shuffle))
        step = max(1, batch_size // PART)
        for start in range(0, len(order), step):
            yield join([self._batches[place] for place in order[start : start + step].tolist()])


def _sizes(choice: str, group: Group) -> dict[str, Any]:
    return {"choice": choice, "units": group.units, "together": group.together, "units_at": {}}


def _attention(groups: Sequence[Group]) -> list[list[str]]:
    """The groups of heads and their widths, those of one layer together."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.kind in ("heads", "head_dim"):
            found.setdefault(group.layers[0] if group.layers else group.name, []).append(group.name)
    return list(found.values())


def _layer_costs(model: nn.Module, example: Inputs) -> dict[str, tuple[int, int]]:
    """(MACs, own parameters) of every layer, factors of a layer counted as the layer that they came from."""
    found: dict[str, tuple[int, int]] = {}
    macs = {row["name"]: row["macs"] for row in layer_table(model, example)}
    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if name and (own or name in macs):
            layer = origin(model, name)
            before = found.get(layer, (0, 0))
            found[layer] = (before[0] + macs.get(name, 0), before[1] + own)
    return found


def _factors(
    base: Mapping[str, tuple[int, int]], changed: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[float, float]]:
    """Layer -> factors of its MACs and parameters, where they are not 1; 0 of a layer that is gone."""
    found = {}
    for layer, before in base.items():
        after = changed.get(layer, (0, 0))
        factors = tuple(
            b / a if a else float(b > 0 or layer in changed) for a, b in zip(before, after, strict=True)
        )
        if factors != (1.0, 1.0):
            found[layer] = (factors[0], factors[1])
    return found


def resized(
    layer: nn.Module, given: torch.Tensor, reads: float, writes: float
) -> tuple[nn.Sequential, torch.Tensor] | None:
    """A layer of the same kind with fewer inputs and outputs, an activation behind it, and an input for it.

    None for kinds whose width is not one number: convolutions in groups that are not depthwise, lookups, recurrence.

    Args:
        layer: the layer as it is.
        given: its input, batch size 1.
        reads, writes: shares of its inputs and of its outputs.
    """
    kind = layer_kind(layer)
    if isinstance(layer, nn.Linear):
        inputs, outputs = _share(layer.in_features, reads), _share(layer.out_features, writes)
        alone: nn.Module = nn.Linear(inputs, outputs, bias=layer.bias is not None)
        shape = (*given.shape[:-1], inputs)
    elif kind.startswith("Conv") and isinstance(layer, nn.modules.conv._ConvNd):
        depthwise = layer.groups == layer.in_channels
        if layer.groups > 1 and not depthwise:
            return None
        inputs = _share(layer.in_channels, writes if depthwise else reads)
        outputs = (
            inputs * layer.out_channels // layer.in_channels
            if depthwise
            else _share(layer.out_channels, writes)
        )
        alone = getattr(nn, kind)(
            inputs,
            outputs,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            dilation=layer.dilation,
            groups=inputs if depthwise else 1,
        )
        shape = (given.shape[0], inputs, *given.shape[2:])
    else:
        return None
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return nn.Sequential(alone, nn.ReLU()).eval(), example


def _share(channels: int, share: float) -> int:
    return max(1, round(share * channels))


def _signature(layer: nn.Module) -> str:
    return f"{layer_kind(layer)} {layer.extra_repr()}"


def in_integers(alone: nn.Sequential, example: torch.Tensor) -> nn.Module:
    """A layer in eight bits, its ranges read off its example, and a small one in eight bits that reads it.

    Where nobody wants integers of it, a runtime multiplies floating-point numbers.
    """
    with torch.no_grad():
        outputs = alone(example)
    places = outputs.dim() - 2
    is_convolution = isinstance(alone[0], nn.modules.conv._ConvNd)
    width = outputs.shape[1 if is_convolution else -1]
    pooled = [getattr(nn, f"AdaptiveAvgPool{places}d")(1), nn.Flatten()] if is_convolution else []
    network = nn.Sequential(*alone, *pooled, nn.Linear(width, 1)).eval()
    deployed = deploy(network, {"0": INTEGER, str(len(network) - 1): INTEGER}, example)
    calibrate(deployed, [example])
    return deployed
