"""Sparsity: single weights set to zero, a share of its own in each layer.

It needs no graph: any weight with two axes or more can have zeros, in a layer of torch as in a module of the
user's own. Runtimes for dense networks get no faster by it; what gets smaller is the stored file (`store`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from autoprune.compress import weight_scores
from autoprune.compress.agp import GradualPruning
from autoprune.compress.criteria import Evidence
from autoprune.compress.dynamic_surgery import DynamicSurgery
from autoprune.compress.factorize import origin
from autoprune.compress.gradual import Gradual, whole
from autoprune.compress.iterative import iterate
from autoprune.compress.lottery_ticket import draw_ticket
from autoprune.compress.movement import Movement
from autoprune.compress.sparsity import UNSTRUCTURED, Fixed, Hole, Schedule, stays_of, zeros_in
from autoprune.compress.technique import Context, Technique
from autoprune.compress.zeroed_weights import ZeroedWeights
from autoprune.errors import BadInput, ModelError, TaskError
from autoprune.references import matches
from autoprune.space import Choice, Choices, Options, Range
from autoprune.task import Data, Task, TrainsItself

if TYPE_CHECKING:
    from autoprune.targets import Target

SPARSITY, PATTERN, CRITERION, SCHEDULE = (
    f"sparsify.{name}" for name in ("sparsity", "pattern", "criterion", "schedule")
)
PATTERNS = (UNSTRUCTURED, "2:4", "4:8")
CRITERIA = tuple(weight_scores.BUILT_IN)
ONE_SHOT, ITERATIVE, LOTTERY_TICKET, GLOBAL = "one_shot", "iterative", "lottery_ticket", "global"
# Schedule -> who makes or keeps the zeros, step by step of a stretch.
SCHEDULES: dict[str, Callable[[Mapping[str, nn.Parameter], Mapping[str, Hole]], Schedule]] = {
    ONE_SHOT: Fixed,
    ITERATIVE: Fixed,
    "agp": GradualPruning,
    "dynamic_surgery": DynamicSurgery,
    "movement": Movement,
    LOTTERY_TICKET: Fixed,
}
SCORING_BATCH_SIZE, SCORING_BATCHES = 16, 16


class Sparsify(Technique):
    """Zero the weights of each layer that matter least, and keep them zero.

    `one_shot` zeroes them before any training, by the criterion. `iterative` and `lottery_ticket` do it in rounds, with
    training in between (see there), and are one shot without it. The other schedules do it step by step (see `agp`,
    `dynamic_surgery`, `movement`); what is measured has all its zeros all the same: where training has not got
    there, the smallest weights go at the end.

    Args:
        sparsity: the choice of a layer's share of zeros, or with `scope` global of the network's. With an `N:M`
            pattern it decides between none and 1 - N/M, whichever is nearer.
        pattern: the choice of `unstructured`, `2:4` or `4:8` (Mishra et al., "Accelerating sparse deep neural
            networks", 2021, https://arxiv.org/abs/2104.08378). A layer that a pattern does not fit is sparse
            without one if `unstructured` is among the options, else it stays whole.
        criterion: the choice of who says which weights matter least (see `weight_scores`); read by `one_shot`
            and `iterative`, and where the scope is global. The others go by what their papers do.
        schedule: the choice of when.
        scope: `layer`: one choice for each layer, and its weights are ranked among themselves; `global`: one choice
            for the network, all of whose weights are ranked together before any training. That gives each layer a
            sparsity of its own, which a schedule that zeroes while training then works towards.
        include: patterns of layer names that may have zeros; empty means all.
        exclude: patterns of layer names that stay whole.
        gradual: how schedules that train in between go about it.

    Raises:
        BadInput: an `N:M` pattern, which is a share of its own in each layer, with `scope` global.
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
        scope: Literal["layer", "global"] = "layer",
        gradual: Gradual = Gradual(),  # noqa: B008
    ) -> None:
        if scope == GLOBAL and set(pattern.values) != {UNSTRUCTURED}:
            raise BadInput(
                f"sparsify.pattern: got {', '.join(map(str, pattern.values))} with scope global, expected unstructured"
            )
        self.sparsity, self.pattern, self.criterion, self.schedule = sparsity, pattern, criterion, schedule
        self.include, self.exclude, self.scope = tuple(include), tuple(exclude), scope
        self.gradual = gradual
        self._running: Schedule | None = None
        # A record and the masks that were made with it, until the stretch that follows takes them up.
        self._made: tuple[dict[str, Any], dict[str, torch.Tensor]] | None = None

    def check(self, task: Task, data: Data) -> None:  # noqa: ARG002
        """Refuse schedules that the task's own training cannot serve.

        Raises:
            TaskError: weights are to go in each step of a training that is not ours.
        """
        stepwise = [str(s) for s in self.schedule.values if SCHEDULES[str(s)] is not Fixed]
        if stepwise and isinstance(task, TrainsItself):
            raise TaskError(
                f"space.sparsify.schedule: got {stepwise[0]!r}, which zeroes weights in each step of our training, but "
                "the task trains by a fit() of its own; expected one_shot, iterative or lottery_ticket"
            )

    def is_gradual(self, choices: Choices) -> bool:
        """Whether there are to be zeros at all, made in rounds."""
        values = choices.values_unread  # what matters is read when it is applied
        shares = [
            v for name, v in values.items() if name.startswith("sparsify.") and name.endswith("sparsity")
        ]
        in_rounds = values.get(SCHEDULE, self.schedule.neutral) in (ITERATIVE, LOTTERY_TICKET)
        return in_rounds and any(float(share) > 0 for share in shares)

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """One sparsity for each layer, or one for all, and how all of them are made.

        Raises:
            ModelError: no layer can have any of the patterns asked for.
        """
        rows = list(self._layers(model))
        found: dict[str, Choice] = {
            self._choice_of(layer): self.sparsity for layer, _, why in rows if not why
        }
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
            elif self.include and not matches(named, self.include):
                yield layer, weight, "not included by the spec"
            elif matches(named, self.exclude):
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
        """Decide on the zeros of each layer; `one_shot` sets them here, and with training what goes in rounds.

        Records in `context.structure["sparsify"]`: `schedule`, `layers` (name -> `sparsity`, `pattern`, and the
        `reason` where they are not what was asked for), `criterion` and its `scoring` notes where it was read, and,
        after rounds of training, `iterative` or `ticket` (what `iterate` and `draw_ticket` return).
        """
        wanted = self._wanted(model, choices)
        if not wanted:
            return model
        pattern, schedule = choices.text(PATTERN, UNSTRUCTURED), choices.text(SCHEDULE, ONE_SHOT)
        planned = {layer: self._planned(model, layer, share, pattern) for layer, share in wanted.items()}
        record: dict[str, Any] = {"schedule": schedule, "layers": planned}
        context.structure[self.name] = record
        if schedule in (ONE_SHOT, ITERATIVE) or self.scope == GLOBAL:
            record["criterion"] = choices.text(CRITERION, "l1")
        if self.scope == GLOBAL:
            scores = _scores(record, model, context)
            for layer, share in shares_of(scores, choices.number(SPARSITY, 0.0)).items():
                planned[layer]["sparsity"] = share
        if SCHEDULES[schedule] is Fixed:
            self._make(model, record, context)
        return model

    def _make(self, model: nn.Module, record: dict[str, Any], context: Context) -> None:
        """Set the zeros that are there before a stretch as a whole begins, with training in between or without."""
        holes, schedule, recovery = _holes(record), record["schedule"], context.recovery
        by_magnitude = schedule == LOTTERY_TICKET

        def score(network: nn.Module) -> Mapping[str, torch.Tensor]:
            return _magnitudes(network, holes) if by_magnitude else _scores(record, network, context)

        zeros = ZeroedWeights(model, {layer: _weights(model)[layer] for layer in holes}, holes, score)
        if recovery is None or schedule == ONE_SHOT:
            zeros.choose(whole)
            zeros.zero()
            context.mend(model)
        elif schedule == ITERATIVE:
            record[ITERATIVE] = iterate(zeros, recovery, context.reference, self.gradual)
            if "stopped" in record[ITERATIVE]:
                _settle(record, zeros.chosen)
        else:
            record["ticket"] = draw_ticket(zeros, recovery, context.reference, self.gradual, recovery.initial)
        self._made = (record, zeros.chosen)

    def ticket(self, early: nn.Module, trained: nn.Module, context: Context) -> nn.Module:
        """`early` with zeros where `trained` has them."""
        weights, found = _weights(early), _weights(trained)
        with torch.no_grad():
            for layer in _holes(context.structure[self.name]):
                weights[layer].masked_fill_(found[layer] == 0, 0.0)
        return early

    def _choice_of(self, layer: str) -> str:
        return SPARSITY if self.scope == GLOBAL else f"sparsify.{layer}.sparsity"

    def _wanted(self, model: nn.Module, choices: Choices) -> dict[str, float]:
        """The layers that are to have zeros, and what share of their weights: of the network's, where that is the
        scope."""
        found = {
            layer: choices.number(self._choice_of(origin(model, layer)), 0.0)
            for layer, _, reason in self._layers(model)
            if not reason and self._choice_of(origin(model, layer)) in choices
        }
        return {layer: sparsity for layer, sparsity in found.items() if sparsity > 0}

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
            schedule = SCHEDULES[record["schedule"]]
            known = self._made[1] if self._made is not None and self._made[0] is record else {}
            self._running = Fixed(weights, holes, known) if schedule is Fixed else schedule(weights, holes)
        self._made = None
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
            context.mend(model)
        weights = _weights(model)
        for layer in holes:
            record["layers"][layer]["realised"] = round(zeros_in(weights[layer]), 6)
        return model


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


def _settle(record: dict[str, Any], chosen: Mapping[str, torch.Tensor]) -> None:
    """Have the record plan what was reached, no more."""
    for layer, plan in record["layers"].items():
        reached = float(chosen[layer].float().mean()) if layer in chosen else 0.0
        if reached < plan["sparsity"]:
            reason = f"{plan['sparsity']:g} in pattern {plan['pattern']} was more than the guard let pass"
            plan.update(sparsity=reached, pattern=UNSTRUCTURED, reason=reason)


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


def _magnitudes(model: nn.Module, holes: Mapping[str, Hole]) -> dict[str, torch.Tensor]:
    weights = _weights(model)
    return {layer: weights[layer].detach().abs() for layer in holes}


def _scores(record: dict[str, Any], model: nn.Module, context: Context) -> dict[str, torch.Tensor]:
    """A score for each weight of the layers with holes by the record's criterion, which may note in `scoring` how it
    came to them; the lowest go."""
    holes = _holes(record)
    weights = {layer: weight for layer, weight in _weights(model).items() if layer in holes}
    batches = islice(context.data.train.batches(SCORING_BATCH_SIZE, shuffle=context.seed), SCORING_BATCHES)
    evidence = Evidence(model, context.task, batches, seed=context.seed)
    scores = weight_scores.score(record["criterion"], evidence, weights)
    if evidence.notes:
        record["scoring"] = evidence.notes
    return scores


def shares_of(scores: Mapping[str, torch.Tensor], sparsity: float) -> dict[str, float]:
    """The share of each layer that goes when the lowest scores of all layers do; one value of each stays.

    Args:
        scores: one for each weight, by layer.
        sparsity: of all of them together, from 0 up to but not including 1.
    """
    kept = {layer: values.reshape(-1).float().clone() for layer, values in scores.items()}
    for values in kept.values():
        values[values.argmax()] = torch.inf
    ranked = torch.argsort(torch.cat(list(kept.values())), stable=True)
    goes = torch.zeros(len(ranked), dtype=torch.bool)
    goes[ranked[: min(round(sparsity * len(ranked)), len(ranked) - len(kept))]] = True
    sizes = [len(values) for values in kept.values()]
    return {
        layer: int(part.sum()) / size
        for layer, part, size in zip(kept, torch.split(goes, sizes), sizes, strict=True)
    }
