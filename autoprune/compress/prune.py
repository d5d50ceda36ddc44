"""Structured pruning: whole channels, heads and widths are cut out, so that the network is smaller in every runtime.

There is one ratio for each group of coupled layers, because layers whose outputs are added up cannot have
different widths. What was really cut is recorded, original index by original index: nothing more is needed to
rebuild a candidate from its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.compress.agp import ramp_up
from autoprune.compress.criteria import check, load_criterion
from autoprune.compress.gradual import Gradual
from autoprune.compress.iterative import iterate
from autoprune.compress.lottery_ticket import draw_ticket
from autoprune.compress.technique import Context, Recovery, Technique
from autoprune.compress.zeroed_units import ZeroedUnits, affordable, chosen_untrained, scored_by
from autoprune.errors import BadInput, ModelError, TaskError
from autoprune.references import matches, nearest
from autoprune.space import Choice, Choices, Options, Range
from autoprune.space.widths import units_left
from autoprune.structure import (
    SEARCH_SECONDS,
    Group,
    Observed,
    Structure,
    analyse,
    check_cut,
    frozen_layers,
    prepared,
)
from autoprune.task import Data, Task, TrainsItself, example_inputs
from autoprune.tensors import Inputs

if TYPE_CHECKING:
    from autoprune.targets import Target

CRITERION = "prune.criterion"
SCHEDULE = "prune.schedule"

ONE_SHOT, ITERATIVE, AGP, LOTTERY_TICKET = SCHEDULES = ("one_shot", "iterative", "agp", "lottery_ticket")


class Prune(Technique):
    """Cut the units that matter least, a share of its own from each coupled group.

    `one_shot` scores all units of the network as it came. The other schedules zero units while the first stretch of
    training goes on, and cut them before it ends: `iterative` in rounds, `agp` step by step, `lottery_ticket` to
    rewind what is left (see there). Without training, `iterative` scores anew in each round all the same, with
    BatchNorm statistics estimated in between, and the others are one shot.

    Args:
        ratio: the choice of a group's share of units to cut, 0 keeps all. A share is rounded to whole
            units and leaves one at least; read the realised widths, not the ratio.
        criterion: the choice of who says what matters least (see criteria); a lottery ticket goes by `l1`.
        schedule: the choice of when.
        include: glob patterns; only groups of which the name or a layer matches one are pruned. Empty means all.
        exclude: glob patterns; groups with a layer that matches one stay.
        tie: glob patterns; the groups with a layer that matches one share one ratio, `prune.<pattern>.ratio`.
        granularity: `channel`, `head` (whole heads and their width) or both; other groups stay.
        unproven: prune groups over which a norm is taken, too (the width of a transformer's embedding): what is left
            is then normalised otherwise, and no check can tell a right cut from a wrong one.
        gradual: how schedules that train in between go about it.

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
        tie: tuple[str, ...] = (),
        unproven: bool = False,
        granularity: tuple[str, ...] = ("channel", "head"),
        gradual: Gradual = Gradual(),  # noqa: B008
    ) -> None:
        for value in criterion.values:
            load_criterion(str(value))
        for value in schedule.values:
            _check_schedule(str(value))
        self.ratio, self.criterion, self.schedule = ratio, criterion, schedule
        self.include, self.exclude = tuple(include), tuple(exclude)
        self.tie, self.unproven, self.gradual = tuple(tie), unproven, gradual
        self.granularity = tuple(granularity)
        self._multiple = 1  # of channels, that the target likes
        self._found: tuple[nn.Module, Structure] | None = None
        self._by_architecture: dict[str, Structure] = {}

    def check(self, task: Task, data: Data) -> None:
        """Refuse criteria that the data cannot serve, and a schedule that the task's own training cannot.

        Raises:
            TaskError: the targets do not say what a criterion needs to know, or units are to go in each step of a
                training that is not ours.
        """
        for value in self.criterion.values:
            check(str(value), data)
        if AGP in self.schedule.values and isinstance(task, TrainsItself):
            raise TaskError(
                "space.prune.schedule: got 'agp', which zeroes channels in each step of our training, but the task "
                "trains by a fit() of its own; expected one_shot, iterative or lottery_ticket"
            )

    def is_gradual(self, choices: Choices) -> bool:
        """Whether anything goes at all, and not in one shot."""
        values = choices.values_unread  # what matters is read when it is applied
        ratios = [
            value for name, value in values.items() if name.startswith("prune.") and name.endswith(".ratio")
        ]
        return values.get(SCHEDULE, self.schedule.neutral) != ONE_SHOT and any(float(r) > 0 for r in ratios)

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:
        """One ratio for each prunable group, the criterion and the schedule; nothing without such a group.

        Raises:
            ModelError: the model does not run on the example.
        """
        self._multiple = target.channel_multiple
        free = [group for group in self.structure(model, example).free if not self._stuck(group)]
        ratios: dict[str, Choice] = {self._ratio_of(group): self.ratio for group in free}
        return {**ratios, CRITERION: self.criterion, SCHEDULE: self.schedule} if ratios else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """`groups`: name, kind, layers, channels, the choice of its `ratio`, the reason why one stays (empty when it is
        prunable) and the line of the model behind that; `ways`: how the structure was looked for; `frozen`: layers
        that stay whole, and why."""
        found = self.structure(model, example)
        groups = [replace(group, reason=group.reason or self._stuck(group)) for group in found.groups]
        return {
            "groups": [{**described(group), "ratio": self._ratio_of(group)} for group in groups],
            "ways": found.tried,
            "way": found.way,
            "frozen": [
                {"layer": layer, "reason": reason, "line": line}
                for layer, (reason, line) in frozen_layers(groups).items()
            ],
            "unknown": found.unknown,
        }

    def structure(self, model: nn.Module, example: Inputs) -> Structure:
        """The checked structure of `model`; groups that the user excluded stay for that reason."""
        if self._found is None or self._found[0] is not model:
            self._found = (model, self._analysed(model, example))
        return self._found[1]

    def prunable(self, model: nn.Module, example: Inputs) -> list[tuple[str, Group]]:
        """The choice that decides about it, and the group, for each that can be pruned."""
        return [(self._ratio_of(group), group) for group in self.structure(model, example).free]

    def _analysed(self, model: nn.Module, example: Inputs) -> Structure:
        found = analyse(model, example, seconds=SEARCH_SECONDS, unproven=self.unproven)
        return replace(found, groups=[self._filtered(group) for group in found.groups])

    def _filtered(self, group: Group) -> Group:
        if group.reason:
            return group
        if self.include and not _matches(group, self.include):
            return replace(group, reason="not included by the spec")
        if _matches(group, self.exclude):
            return replace(group, reason="excluded by the spec")
        shape = "channel" if group.kind == "channels" else "head"
        if shape not in self.granularity:
            return replace(
                group, reason=f"its units are {group.kind}, which the spec's granularity leaves out"
            )
        return group

    def _stuck(self, group: Group) -> str:
        """Why not even the largest ratio takes a unit of this group; empty when it does."""
        most = float(self.ratio.high if isinstance(self.ratio, Range) else max(map(float, self.ratio.values)))
        stuck = most > 0 and not units_to_cut(group, most, self._multiple)
        return _unchanged(group, most, self._multiple) if stuck else ""

    def _ratio_of(self, group: Group) -> str:
        """The choice that decides about a group: its own, or that of the pattern that ties it to others."""
        pattern = next((p for p in self.tie if _matches(group, (p,))), None)
        return f"prune.{pattern or group.name}.ratio"

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Cut what the choices ask for; the network is returned as the graph that it was lifted to where its own
        code does not allow the cut, and is changed in place otherwise.

        Records in `context.structure["prune"]`: `removed` (group -> original indices of the units that
        went), `widths` (layer -> output channels now), `unchanged` (group -> why its ratio takes nothing) and, where
        anything was to be cut, `way`, `criterion`, `schedule`, `ratios` (group -> the share that went), `scoring` (what
        the criterion noted: how it estimated, which groups `l1` had to score) and, after training in between,
        `iterative` or `ticket` (what `iterate` and `draw_ticket` return).

        Raises:
            ModelError: the cut network is not the one with the same units zeroed.
        """
        record: dict[str, Any] = {"removed": {}}
        if any(choice.startswith("prune.") and choice.endswith(".ratio") for choice in choices):
            found = self._structure_of(model, context)
            wanted = self._wanted(found, choices, context, record)
            if wanted:
                model = self._cut(model, found, wanted, choices, context, record)
        context.structure[self.name] = {**record, "widths": widths(model)}
        return model

    def _structure_of(self, model: nn.Module, context: Context) -> Structure:
        """The structure of a candidate: that of any other with its architecture."""
        architecture = json.dumps(context.structure.get("architecture", {}), sort_keys=True)
        if architecture not in self._by_architecture:
            self._by_architecture[architecture] = self._analysed(model, example_inputs(context.data))
        return self._by_architecture[architecture]

    def _wanted(
        self, found: Structure, choices: Choices, context: Context, record: dict[str, Any]
    ) -> dict[str, int]:
        """The groups of which something goes, and how many units. Reads the ratios of this model's groups."""
        multiple = context.target.channel_multiple
        ratios = {group.name: choices.number(self._ratio_of(group), 0.0) for group in found.free}
        counts = {group.name: units_to_cut(group, ratios[group.name], multiple) for group in found.free}
        unchanged = {
            group.name: _unchanged(group, ratios[group.name], multiple)
            for group in found.free
            if ratios[group.name] > 0 and not counts[group.name]
        }
        if unchanged:
            record["unchanged"] = unchanged
        return {name: count for name, count in counts.items() if count}

    def _cut(
        self,
        model: nn.Module,
        found: Structure,
        wanted: dict[str, int],
        choices: Choices,
        context: Context,
        record: dict[str, Any],
    ) -> nn.Module:
        """The network without `wanted` units of each group."""
        example = example_inputs(context.data)
        record["way"] = found.way
        record["schedule"] = choices.text(SCHEDULE, str(self.schedule.neutral))
        by_magnitude = record["schedule"] == LOTTERY_TICKET
        record["criterion"] = "l1" if by_magnitude else choices.text(CRITERION, str(self.criterion.neutral))
        network = prepared(model, example, found.way)
        observed = Observed(network, example)
        if context.recovery is None or record["schedule"] == ONE_SHOT:
            rounds = self.gradual.steps if record["schedule"] == ITERATIVE else 1
            removed = chosen_untrained(observed, wanted, record, rounds, context, found.free)
        else:
            removed = self._chosen_in_training(observed, wanted, record, context.recovery, context)
        removed = {name: units for name, units in removed.items() if units}
        record["ratios"] = {n: round(len(removed.get(n, ())) / observed.group(n).units, 6) for n in wanted}
        if reason := check_cut(network, example, removed, visible=False):
            raise ModelError(f"cannot prune {', '.join(removed)} together: {reason}")
        observed.cut(removed)
        record["removed"] = removed
        return network

    def _chosen_in_training(
        self,
        observed: Observed,
        wanted: dict[str, int],
        record: dict[str, Any],
        recovery: Recovery,
        context: Context,
    ) -> dict[str, list[int]]:
        """The units to cut, by the record's schedule; the network is trained, and they are zero in it."""
        schedule, criterion = record["schedule"], record["criterion"]
        if schedule == AGP:
            times, batches = affordable(
                criterion, recovery, len(context.data.train), context.settings.batch_size
            )
            units = ZeroedUnits(observed, wanted, scored_by(record, context, batches))
            ramp_up(units, recovery, times)
            return units.chosen
        units = ZeroedUnits(observed, wanted, scored_by(record, context))
        if schedule == ITERATIVE:
            record[ITERATIVE] = iterate(units, recovery, context.reference, self.gradual)
            return units.chosen

        def initial(draw: int) -> nn.Module:
            return prepared(recovery.initial(draw), example_inputs(context.data), record["way"])

        record["ticket"] = draw_ticket(units, recovery, context.reference, self.gradual, initial)
        return units.chosen

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Cut the recorded units out of a freshly built model."""
        record, example = context.structure[self.name], example_inputs(context.data)
        if not record["removed"]:
            return model
        model = prepared(model, example, record["way"])
        Observed(model, example).cut(record["removed"])
        return model


def _check_schedule(schedule: str) -> None:
    if schedule not in SCHEDULES:
        hint = nearest(schedule, SCHEDULES)
        raise BadInput(f"prune.schedule: got {schedule!r}, expected one of {', '.join(SCHEDULES)}{hint}")


def _unchanged(group: Group, ratio: float, multiple: int) -> str:
    """That a ratio takes no unit of a group, in words."""
    why = f", in multiples of {multiple}" if multiple > 1 else ""
    return f"a ratio of {ratio:g} leaves all of its {group.channels} channels{why}"


def _matches(group: Group, patterns: Sequence[str]) -> bool:
    names = (group.name, *group.layers)
    return any(matches(name, patterns) for name in names)


def described(group: Group) -> dict[str, Any]:
    """A group as plain data."""
    return {
        "name": group.name,
        "kind": group.kind,
        "layers": list(group.layers),
        "channels": group.channels,
        "units": group.units,
        "reason": group.reason,
        "proven": not group.reason and not group.unproven,
        "line": group.line,
    }


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, as they really are."""
    found = {}
    for name, module in model.named_modules():
        width = getattr(module, "out_features", getattr(module, "out_channels", None))
        if isinstance(width, int):
            found[name] = width
    return found


def units_to_cut(group: Group, ratio: float, channel_multiple: int = 1) -> int:
    """How many of a group's units a ratio means: rounded to whole units, and at least one unit stays.

    Where the target likes multiples, the width that is left is the multiple nearest to what was asked for,
    which may be the full width.
    """
    return group.units - int(units_left(group.units, group.together, ratio, channel_multiple))
