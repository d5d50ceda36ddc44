"""Structured pruning: whole channels are cut out, so that the network is smaller in every runtime.

There is one ratio for each group of coupled layers, because layers whose outputs are added up cannot have
different widths. What was really cut is recorded, original index by original index: nothing more is needed to
rebuild a candidate from its checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.compress.criteria import load_criterion, score
from autoprune.compress.cut import check_cut, cut, widths
from autoprune.compress.groups import Group, find_groups, trace_groups
from autoprune.compress.technique import Context, Technique
from autoprune.errors import BadInput, ModelError
from autoprune.references import nearest
from autoprune.space import Choice, Choices, Options, Range
from autoprune.task import example_inputs
from autoprune.train import recalibrate

if TYPE_CHECKING:
    from autoprune.targets import Target

CRITERION = "prune.criterion"
SCHEDULE = "prune.schedule"

# Schedule -> what part of all that is to go has gone after each round.
SCHEDULES: dict[str, tuple[float, ...]] = {"one_shot": (1.0,), "iterative": (1 / 3, 2 / 3, 1.0)}

# Gradients are squared batch by batch; in large batches signs cancel before that. ResNet-20, inner channels
# cut by 30 %: 80.5 % accuracy when scored on 32 batches of 16 images, 77.4 % on 8 batches of 64.
SCORING_BATCH_SIZE, SCORING_BATCHES = 16, 32
RECALIBRATION_BATCH_SIZE, RECALIBRATION_BATCHES = 64, 4


class Prune(Technique):
    """Cut the channels that matter least, a share of its own from each coupled group.

    `one_shot` scores all channels of the network as it came. `iterative` chooses in three rounds: after each,
    BatchNorm statistics are estimated anew and what is left is scored again, as in Molchanov et al. 2017
    (https://arxiv.org/abs/1611.06440) but without training in between: that is left to the rungs.

    Args:
        ratio: the choice of a group's share of channels to cut, 0 keeps all. A share is rounded to whole
            channels and leaves one at least; read the realised widths, not the ratio.
        criterion: the choice of who says what matters least (see criteria).
        schedule: the choice of `one_shot` or `iterative`.
        include: glob patterns; only groups with a layer that matches one are pruned. Empty means all.
        exclude: glob patterns; groups with a layer that matches one stay.

    Raises:
        BadInput: an unknown criterion or schedule.
    """

    name = "prune"

    def __init__(
        self,
        ratio: Choice = Range(0.0, 0.8, neutral=0.0),  # noqa: B008 (immutable)
        criterion: Options = Options(("l1",), "l1"),  # noqa: B008
        schedule: Options = Options(("one_shot",), "one_shot"),  # noqa: B008
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> None:
        for value in criterion.values:
            load_criterion(str(value))
        for value in schedule.values:
            _rounds(str(value))
        self.ratio, self.criterion, self.schedule = ratio, criterion, schedule
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._found: tuple[nn.Module, list[Group]] | None = None

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """One ratio for each prunable group, the criterion and the schedule; nothing without such a group.

        Raises:
            ModelError: the model cannot be traced.
        """
        ratios: dict[str, Choice] = {
            _ratio_of(group): self.ratio for group in self.groups(model, example) if not group.reason
        }
        return {**ratios, CRITERION: self.criterion, SCHEDULE: self.schedule} if ratios else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """`groups`: name, layers, channels, and the reason why one stays (empty when it is prunable)."""
        return {
            "groups": [
                {"name": g.name, "layers": list(g.layers), "channels": g.channels, "reason": g.reason}
                for g in self.groups(model, example)
            ]
        }

    def groups(self, model: nn.Module, example: torch.Tensor) -> list[Group]:
        """The checked groups of `model`; those that the user excluded stay for that reason."""
        if self._found is None or self._found[0] is not model:
            self._found = (model, [self._filtered(group) for group in find_groups(model, example)])
        return self._found[1]

    def _filtered(self, group: Group) -> Group:
        if group.reason:
            return group
        if self.include and not _matches(group, self.include):
            return replace(group, reason="not included by the spec")
        return replace(group, reason="excluded by the spec") if _matches(group, self.exclude) else group

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Cut what the choices ask for, in place.

        Records in `context.structure["prune"]`: `removed` (group -> original indices of the channels that
        went), `widths` (layer -> output channels now), and, where anything was cut, `criterion` and
        `schedule`.

        Raises:
            ModelError: the cut network is not the one with the same channels zeroed.
        """
        record: dict[str, Any] = {"removed": {}}
        groups, counts = _wanted(model, choices, context)
        if counts:
            record["criterion"] = choices.text(CRITERION, str(self.criterion.neutral))
            record["schedule"] = choices.text(SCHEDULE, str(self.schedule.neutral))
            removed = _select(model, groups, counts, record["criterion"], record["schedule"], context)
            example = example_inputs(context.data)
            if reason := check_cut(model, example, removed):
                raise ModelError(f"cannot prune {', '.join(removed)} together: {reason}")
            cut(model, example, removed)
            record["removed"] = removed
        context.structure[self.name] = {**record, "widths": widths(model)}
        return model

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Cut the recorded channels out of a freshly built model, in place."""
        cut(model, example_inputs(context.data), context.structure[self.name]["removed"])
        return model


def _ratio_of(group: Group) -> str:
    return f"prune.{group.name}.ratio"


def _rounds(schedule: str) -> tuple[float, ...]:
    if schedule not in SCHEDULES:
        hint = nearest(schedule, SCHEDULES)
        raise BadInput(f"prune.schedule: got {schedule!r}, expected one of {', '.join(SCHEDULES)}{hint}")
    return SCHEDULES[schedule]


def _matches(group: Group, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(layer, pattern) for layer in group.layers for pattern in patterns)


def _wanted(model: nn.Module, choices: Choices, context: Context) -> tuple[list[Group], dict[str, int]]:
    """The groups of which something goes, and how many units. Reads the ratios of this model's groups."""
    if not any(name.startswith("prune.") and name.endswith(".ratio") for name in choices):
        return [], {}
    groups = [group for group in trace_groups(model, example_inputs(context.data)) if not group.reason]
    multiple = context.target.channel_multiple
    counts = {g.name: units_to_cut(g, choices.number(_ratio_of(g), 0.0), multiple) for g in groups}
    return [g for g in groups if counts[g.name]], {name: count for name, count in counts.items() if count}


def units_to_cut(group: Group, ratio: float, channel_multiple: int = 1) -> int:
    """How many of a group's units a ratio means: rounded to whole units, and at least one unit stays.

    Where the target likes multiples, the width that is left is the multiple nearest to what was asked for,
    which may be the full width.
    """
    step = channel_multiple // math.gcd(channel_multiple, group.together)
    left = group.units - round(ratio * group.units)
    if ratio > 0 and step <= group.units:
        left = max(step, step * math.ceil(left / step - 0.5))
    return group.units - min(max(left, 1), group.units)


def _select(
    model: nn.Module,
    groups: Sequence[Group],
    counts: Mapping[str, int],
    criterion: str,
    schedule: str,
    context: Context,
) -> dict[str, list[int]]:
    """The channels to cut, `counts` units of each group, chosen in the rounds of the schedule.

    Rounds are made on a copy: `model` itself is cut once, as `restore` will cut it.
    """
    channels = {group.name: group.channels for group in groups}
    left = {name: list(range(count)) for name, count in channels.items()}
    done = dict.fromkeys(left, 0)
    scratch = model
    for share in _rounds(schedule):
        due = {name: round(share * count) - done[name] for name, count in counts.items()}
        scores = _scores(criterion, groups, scratch, context)
        gone = {g.name: g.channels_of(_lowest(g, scores[g.name], due[g.name])) for g in groups}
        for name, places in gone.items():
            left[name] = [channel for place, channel in enumerate(left[name]) if place not in set(places)]
            done[name] += due[name]
        if share < 1.0:
            scratch = copy.deepcopy(scratch)
            groups = _after_cutting(scratch, gone, context)
    return {name: sorted(set(range(channels[name])) - set(kept)) for name, kept in left.items()}


def _lowest(group: Group, scores: torch.Tensor, count: int) -> list[int]:
    """The `count` units whose channels score lowest on average; of equals, the first."""
    units = scores.reshape(group.together, group.units).mean(0)
    return [int(unit) for unit in torch.argsort(units, stable=True)[:count]]


def _scores(
    criterion: str, groups: Sequence[Group], model: nn.Module, context: Context
) -> dict[str, torch.Tensor]:
    batches = islice(context.data.train.batches(SCORING_BATCH_SIZE, shuffle=context.seed), SCORING_BATCHES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        return score(criterion, groups, model, context.task, batches)


def _after_cutting(model: nn.Module, gone: Mapping[str, Sequence[int]], context: Context) -> list[Group]:
    """Cut `model`, in place, recalibrate its BatchNorm layers, and return the same groups as they are now."""
    cut(model, example_inputs(context.data), gone)
    recalibrate(
        model,
        context.data.train,
        batch_size=RECALIBRATION_BATCH_SIZE,
        batches=RECALIBRATION_BATCHES,
        seed=context.seed,
    )
    return [group for group in trace_groups(model, example_inputs(context.data)) if group.name in gone]
