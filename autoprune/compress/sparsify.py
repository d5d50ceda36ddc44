"""Sparsity: single weights set to zero, a share of its own in each layer.

It needs no graph: any weight with two axes or more can have zeros, in a layer of torch as in a module of the
user's own. Runtimes for dense networks get no faster by it; what gets smaller is the stored file (`store`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.compress.agp import GradualPruning
from autoprune.compress.dynamic_surgery import DynamicSurgery
from autoprune.compress.factorize import origin
from autoprune.compress.movement import Movement
from autoprune.compress.sparsity import UNSTRUCTURED, Fixed, Hole, Schedule, stays_of, zeros_in
from autoprune.compress.technique import Context, Technique
from autoprune.errors import ModelError
from autoprune.space import Choice, Choices, Options, Range
from autoprune.tensors import call
from autoprune.train import recalibrate

if TYPE_CHECKING:
    from autoprune.targets import Target

PATTERN, CRITERION, SCHEDULE = "sparsify.pattern", "sparsify.criterion", "sparsify.schedule"
PATTERNS = (UNSTRUCTURED, "2:4", "4:8")
CRITERIA = ("l1", "taylor", "random")
ONE_SHOT = "one_shot"
SCHEDULES: dict[str, Callable[[Mapping[str, nn.Parameter], Mapping[str, Hole]], Schedule]] = {
    ONE_SHOT: Fixed,
    "agp": GradualPruning,
    "dynamic_surgery": DynamicSurgery,
    "movement": Movement,
}
SCORING_BATCH_SIZE, SCORING_BATCHES = 16, 16
RECALIBRATION_BATCH_SIZE, RECALIBRATION_BATCHES = 64, 4


class Sparsify(Technique):
    """Zero the weights of each layer that matter least, and keep them zero.

    `one_shot` zeroes them before any training, by the criterion. The other schedules do it while training (see
    `agp`, `dynamic_surgery`, `movement`); what is measured has all its zeros all the same: where training has
    not got there, the smallest weights go at the end.

    Args:
        sparsity: the choice of a layer's share of zeros. With an `N:M` pattern it decides between none and
            1 - N/M, whichever is nearer.
        pattern: the choice of `unstructured`, `2:4` or `4:8` (Mishra et al., "Accelerating sparse deep neural
            networks", 2021, https://arxiv.org/abs/2104.08378). A layer that a pattern does not fit is sparse
            without one if `unstructured` is among the options, else it stays whole.
        criterion: the choice of `l1` (magnitude, Han et al. 2015, https://arxiv.org/abs/1506.02626), `taylor`
            (squared first-order change of the loss) or `random`; read by `one_shot` only.
        schedule: the choice of when.
        include: patterns of layer names that may have zeros; empty means all.
        exclude: patterns of layer names that stay whole.
    """

    name = "sparsify"

    def __init__(
        self,
        sparsity: Choice = Range(0.0, 0.9, neutral=0.0),  # noqa: B008 (immutable)
        pattern: Options = Options((UNSTRUCTURED,), UNSTRUCTURED),  # noqa: B008
        criterion: Options = Options(("l1",), "l1"),  # noqa: B008
        schedule: Options = Options((ONE_SHOT,), ONE_SHOT),  # noqa: B008
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> None:
        self.sparsity, self.pattern, self.criterion, self.schedule = sparsity, pattern, criterion, schedule
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._running: Schedule | None = None

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """One sparsity for each layer, and how all of them are made.

        Raises:
            ModelError: no layer can have any of the patterns asked for.
        """
        rows = list(self._layers(model))
        found: dict[str, Choice] = {_choice_of(layer): self.sparsity for layer, _, why in rows if not why}
        misfits = [why for _, _, why in rows if why.startswith(tuple(map(str, self.pattern.values)))]
        if not found and misfits:
            raise ModelError(f"space.sparsify.pattern: no layer of the model can have it: {misfits[0]}")
        rest: dict[str, Choice] = {
            PATTERN: self.pattern,
            CRITERION: self.criterion,
            SCHEDULE: self.schedule,
        }
        return {**found, **rest} if found else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:  # noqa: ARG002
        """`layers`: name, number of weights, the patterns that do not fit and why, and why it stays whole."""
        return {
            "layers": [
                {
                    "name": layer,
                    "weights": weight.numel(),
                    "misfits": self._misfits(model, layer, weight),
                    "reason": reason,
                }
                for layer, weight, reason in self._layers(model)
            ]
        }

    def _layers(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
        """Every weight of two axes or more by the name of its layer, with the reason if it stays whole."""
        for layer, weight in _weights(model).items():
            misfits, named = self._misfits(model, layer, weight), origin(model, layer)
            if ".parametrizations." in f".{layer}":
                yield layer, weight, "parametrized: the weight is computed from others"
            elif max(weight.shape) == weight.numel():
                yield layer, weight, "a single vector"
            elif not weight.is_floating_point():
                yield layer, weight, f"{weight.dtype}".removeprefix("torch.") + " has no gradient"
            elif self.include and not _matches(named, self.include):
                yield layer, weight, "not included by the spec"
            elif _matches(named, self.exclude):
                yield layer, weight, "excluded by the spec"
            elif len(misfits) == len(self.pattern.values):
                yield layer, weight, "; ".join(f"{pattern} {why}" for pattern, why in misfits.items())
            else:
                yield layer, weight, ""

    def _misfits(self, model: nn.Module, layer: str, weight: nn.Parameter) -> dict[str, str]:
        """Pattern -> why this layer cannot have it."""
        found = {str(pattern): _misfit(model, layer, weight, str(pattern)) for pattern in self.pattern.values}
        return {pattern: why for pattern, why in found.items() if why}

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Decide on the zeros of each layer; `one_shot` sets them here."""
        wanted = {
            layer: choices.number(_choice_of(origin(model, layer)), 0.0)
            for layer, _, reason in self._layers(model)
            if not reason and _choice_of(origin(model, layer)) in choices
        }
        wanted = {layer: sparsity for layer, sparsity in wanted.items() if sparsity > 0}
        if not wanted:
            return model
        pattern, schedule = choices.text(PATTERN, UNSTRUCTURED), choices.text(SCHEDULE, ONE_SHOT)
        planned = {layer: self._planned(model, layer, share, pattern) for layer, share in wanted.items()}
        record: dict[str, Any] = {"schedule": schedule, "layers": planned}
        context.structure[self.name] = record
        if schedule == ONE_SHOT:
            record["criterion"] = choices.text(CRITERION, "l1")
            scores = _scores(record["criterion"], model, _holes(record), context)
            _zero(model, _holes(record), scores)
            _recalibrate(model, context)
        return model

    def _planned(self, model: nn.Module, layer: str, share: float, pattern: str) -> dict[str, Any]:
        """The hole of a layer as plain data; `reason` where it is not the one that was asked for."""
        weight = _weights(model)[layer]
        if pattern == UNSTRUCTURED:
            return {"sparsity": share, "pattern": pattern}
        if why := _misfit(model, layer, weight, pattern):
            fits = UNSTRUCTURED in self.pattern.values
            return {
                "sparsity": share if fits else 0.0,
                "pattern": UNSTRUCTURED,
                "reason": f"{pattern} {why}",
            }
        stay, of = stays_of(pattern)
        full = 1 - stay / of
        axis = read_axis(model, layer)
        return {"sparsity": full if share >= full / 2 else 0.0, "pattern": pattern, "axis": axis}

    def wrap(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:  # noqa: ARG002
        """The same network; from here on every step of the stretch keeps or makes the zeros."""
        record = context.structure.get(self.name)
        self._running = None
        if record is not None:
            holes = _holes(record)
            weights = {layer: weight for layer, weight in _weights(model).items() if layer in holes}
            self._running = SCHEDULES[record["schedule"]](weights, holes)
        return model

    def on_step(self, model: nn.Module, step: int, total: int) -> None:  # noqa: ARG002
        """The next step of the schedule."""
        if self._running is not None:
            self._running.step(step, total)

    def finalize(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:  # noqa: ARG002
        """The network with all its zeros: itself if it has them, else a copy. Records the `realised` sparsity."""
        record = context.structure.get(self.name)
        self._running = None
        if record is None:
            return model
        holes = _holes(record)
        if not _is_sparse(model, holes):
            model = copy.deepcopy(model)
            _zero(model, holes, _magnitudes(model, holes))
            _recalibrate(model, context)
        weights = _weights(model)
        for layer in holes:
            record["layers"][layer]["realised"] = round(zeros_in(weights[layer]), 6)
        return model


def _choice_of(layer: str) -> str:
    return f"sparsify.{layer}.sparsity"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of two axes or more by the name of their layer, or their own where they are not its `weight`."""
    return {
        name.removesuffix(".weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }


def read_axis(model: nn.Module, layer: str) -> int | None:
    """The axis of a layer's weight along which it is multiplied with inputs; None where that is not known."""
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        return None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return 0
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return 1
    # transformers' Conv1D is a linear layer whose weight lies the other way round.
    return 0 if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None


def _misfit(model: nn.Module, layer: str, weight: nn.Parameter, pattern: str) -> str:
    """Why a pattern does not fit a layer, in words that go on with its name; empty when it does."""
    if pattern == UNSTRUCTURED:
        return ""
    axis, (_, of) = read_axis(model, layer), stays_of(pattern)
    if axis is None:
        return "needs a linear layer or convolution, where the axis that is read is known"
    if weight.shape[axis] % of:
        return f"needs inputs in groups of {of}, the layer reads {weight.shape[axis]}"
    return ""


def _holes(record: Mapping[str, Any]) -> dict[str, Hole]:
    """The holes that a record plans, without those that came to nothing."""
    return {
        layer: Hole(plan["sparsity"], plan["pattern"], plan.get("axis", 1))
        for layer, plan in record["layers"].items()
        if plan["sparsity"] > 0
    }


def _is_sparse(model: nn.Module, holes: Mapping[str, Hole]) -> bool:
    weights = _weights(model)
    return all(
        not bool(weights[layer][hole.lowest(weights[layer].detach().abs())].any())
        for layer, hole in holes.items()
    )


@torch.no_grad()
def _zero(model: nn.Module, holes: Mapping[str, Hole], scores: Mapping[str, torch.Tensor]) -> None:
    weights = _weights(model)
    for layer, hole in holes.items():
        weights[layer].masked_fill_(hole.lowest(scores[layer]), 0.0)


def _recalibrate(model: nn.Module, context: Context) -> None:
    """Mend BatchNorm statistics, which were those of the network with all its weights."""
    recalibrate(
        model,
        context.data.train,
        batch_size=RECALIBRATION_BATCH_SIZE,
        batches=RECALIBRATION_BATCHES,
        seed=context.seed,
    )


def _magnitudes(model: nn.Module, holes: Mapping[str, Hole]) -> dict[str, torch.Tensor]:
    weights = _weights(model)
    return {layer: weights[layer].detach().abs() for layer in holes}


def _scores(
    criterion: str, model: nn.Module, holes: Mapping[str, Hole], context: Context
) -> dict[str, torch.Tensor]:
    """A score for each weight of the layers with holes; the lowest go."""
    if criterion == "taylor":
        return _squared_changes(model, holes, context)
    if criterion == "random":
        generator = torch.Generator().manual_seed(context.seed)
        weights = _weights(model)
        return {layer: torch.rand(weights[layer].shape, generator=generator) for layer in holes}
    return _magnitudes(model, holes)


def _squared_changes(
    model: nn.Module, holes: Mapping[str, Hole], context: Context
) -> dict[str, torch.Tensor]:
    """The squared first-order change of the loss when a weight is zeroed, summed over batches.

    Molchanov et al., "Importance estimation for neural network pruning", 2019,
    https://arxiv.org/abs/1906.10771, eq. 3, of single weights.
    """
    weights = {layer: weight for layer, weight in _weights(model).items() if layer in holes}
    trained = {layer: weight.requires_grad for layer, weight in weights.items()}
    totals = {layer: torch.zeros_like(weight.detach()) for layer, weight in weights.items()}
    batches = context.data.train.batches(SCORING_BATCH_SIZE, shuffle=context.seed)
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for batch in islice(batches, SCORING_BATCHES):
            loss = context.task.loss(call(model, batch.inputs), batch)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for (layer, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    totals[layer] += (weight.detach() * gradient).square()
    finally:
        for layer, weight in weights.items():
            weight.requires_grad_(trained[layer])
    return totals
