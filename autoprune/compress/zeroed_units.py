"""Units of coupled groups that are to be cut: chosen by a criterion, and zero wherever they occur until then.

A network with units zeroed is the one without them (`structure.check_cut` proves it before it is cut), so that it can
be trained and scored while its form is still the old one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from autoprune.compress.criteria import Evidence, score
from autoprune.compress.gradual import SHAPING, Way, alike
from autoprune.compress.sparsity import RENEWALS
from autoprune.compress.technique import Context, Recovery
from autoprune.cost import count
from autoprune.structure import Group, Observed
from autoprune.task import Batch, example_inputs
from autoprune.tensors import fingerprint, map_tensors

# Gradients are squared batch by batch; in large batches signs cancel before that. ResNet-20, inner channels
# cut by 30 %: 80.5 % accuracy when scored on 32 batches of 16 images, 77.4 % on 8 batches of 64.
SCORING_BATCH_SIZE, SCORING_BATCHES = 16, 32
# A look at the uncompressed network serves all candidates of a worker, so it may be longer, as long as that takes no
# more multiply-accumulates than these. ResNet-20 within 40.1 MFLOPs, three networks: 57 to 61 % when scored on 512
# images, 65 to 67 % on 2,048, 68 to 71 % on 4,096.
LONG_MACS, LONG_BATCHES, PASSES = 5e11, 128, 3
# Of uncompressed networks; every candidate asks, and counting takes as long as several forward passes.
_macs: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()

# Scoring in training is to take no more than this share of its time. An example that is scored costs about as much as
# so many that are trained on: batches are small, and some criteria take more than a gradient. What reads no data costs
# less than a step of most networks, and about one of the smallest.
SCORING_SHARE, SCORING_COST, DEAR_COST, STEPS_BETWEEN = 0.2, 3.0, 12.0, 5
DEAR = ("mrmr",)
WITHOUT_DATA = ("l1", "l2", "lamp", "fpgm", "bn_scale", "random")

BY_L1 = "by_l1"  # among the notes of a criterion: group -> why it could not be scored
MOST_KEPT = 10_000  # scores of groups

Notes = Mapping[str, Any]
ScoreOf = Callable[[Sequence[Group], nn.Module], Mapping[str, torch.Tensor]]


class ZeroedUnits:
    """The units that go of each group; those that score lowest among what is left go next.

    Args:
        observed: the network; its groups are named in `wanted`.
        wanted: group -> how many of its units are to go.
        score: scores of all units of the groups that it is given; the lowest go.
    """

    def __init__(self, observed: Observed, wanted: Mapping[str, int], score: ScoreOf) -> None:
        self.network = observed.model
        self.chosen: dict[str, list[int]] = {name: [] for name in wanted}
        self._observed, self._wanted, self._score = observed, dict(wanted), score

    def choose(self, way: Way) -> None:
        """Choose what goes by now of each group, in whole units."""
        groups = [self._observed.group(name) for name in self._wanted]
        left = {g.name: sorted(set(range(g.units)) - set(self.chosen[g.name])) for g in groups}
        scores = self._score([group.only(left[group.name]) for group in groups], self.network)
        self.chosen = {
            group.name: self._gone(group, scores[group.name], left[group.name], way) for group in groups
        }

    def _gone(self, group: Group, scores: torch.Tensor, left: Sequence[int], way: Way) -> list[int]:
        staying = min(
            len(left), group.units - round(way(self._wanted[group.name] / group.units) * group.units)
        )
        ranked = torch.argsort(scores, stable=True)[len(left) - staying :]
        return sorted(set(range(group.units)) - {left[place] for place in ranked.tolist()})

    def zero(self) -> None:
        """Zero them in the network, on whichever device it is."""
        self._observed.zero(self.chosen)


def chosen_untrained(
    observed: Observed,
    wanted: Mapping[str, int],
    record: dict[str, Any],
    rounds: int,
    context: Context,
    free: Sequence[Group] = (),
) -> dict[str, list[int]]:
    """The units to cut, so many of each group, by the record's criterion, in so many rounds without training.

    Between rounds a copy of the network stands in for the cut one: with the same units zeroed, and BatchNorm
    statistics estimated anew.

    Args:
        observed: the network.
        wanted: group -> how many of its units are to go.
        record: see `scored_by`.
        rounds: of choosing.
        context: whose data are read.
        free: groups of the network of which units could go as well.
    """
    beside = [observed.group(group.name) for group in free]
    batches = batches_of_a_look(observed.model, record["criterion"], context)
    whole, zeroed = scored_by(record, context, batches, beside), scored_by(record, context)

    def scores(groups: Sequence[Group], model: nn.Module) -> Mapping[str, torch.Tensor]:
        # Only a look at the whole network serves other candidates as well, and may be long.
        return (whole if model is observed.model else zeroed)(groups, model)

    units = ZeroedUnits(observed, wanted, scores)
    for done in range(1, rounds + 1):
        units.choose(alike(done / rounds))
        if done < rounds:
            units.network = _zeroed(observed.model, units.chosen, context)
    return units.chosen


def batches_of_a_look(model: nn.Module, criterion: str, context: Context) -> int:
    """On how many batches a network is scored that was not trained: on more where that is done once for all."""
    weights, known = model.state_dict(), context.reference.state_dict()
    if criterion in DEAR or weights.keys() != known.keys():
        return SCORING_BATCHES
    if not all(weights[n].shape == known[n].shape and torch.equal(weights[n], known[n]) for n in weights):
        return SCORING_BATCHES
    if context.reference not in _macs:
        _macs[context.reference] = count(model, example_inputs(context.data))["macs"]
    each = PASSES * SCORING_BATCH_SIZE * _macs[context.reference]
    return int(min(max(LONG_MACS / max(each, 1.0), SCORING_BATCHES), LONG_BATCHES))


def scored_by(
    record: dict[str, Any],
    context: Context,
    batches: int = SCORING_BATCHES,
    beside: Sequence[Group] = (),
) -> ScoreOf:
    """Scores by the record's criterion, which may note in its `scoring` how it came to them.

    Args:
        record: with `criterion`.
        context: whose data are read.
        batches: of how many examples, in sixteens.
        beside: groups whose scores the next candidate may want: where scores are kept for others, they are scored as
            well, as one look at the network serves all groups. None: nothing is looked up or kept.
    """

    def scores(groups: Sequence[Group], model: nn.Module) -> Mapping[str, torch.Tensor]:
        known = context.scored if beside else None
        if known is None:
            found, notes = scored(groups, model)
            noted(notes)
            return found
        asked = record["criterion"], batches, id(context.data.train), context.seed, fingerprint(model)
        keys = {group.name: (*asked, group.name, group.units) for group in groups}
        if missing := {group.name: group for group in groups if keys[group.name] not in known}:
            if len(known) > MOST_KEPT:
                known.clear()
                missing = {group.name: group for group in groups}
            every = {
                **{group.name: group for group in beside},
                **missing,
            }  # always in one order: some draw lots
            found, notes = scored(list(every.values()), model)
            known.update({(*asked, n, len(score)): (score, _about(n, notes)) for n, score in found.items()})
        for key in keys.values():
            noted(known[key][1])
        return {name: known[key][0] for name, key in keys.items()}

    def scored(groups: Sequence[Group], model: nn.Module) -> tuple[Mapping[str, torch.Tensor], Notes]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            evidence = Evidence(model, context.task, _batches(model, context, batches), groups, context.seed)
            return score(record["criterion"], evidence), evidence.notes

    def noted(notes: Notes) -> None:
        if notes:
            before = record.get("scoring", {})
            record["scoring"] = {**before, **notes}
            if by_l1 := {**before.get(BY_L1, {}), **notes.get(BY_L1, {})}:
                record["scoring"][BY_L1] = by_l1

    return scores


def _about(group: str, notes: Notes) -> Notes:
    """What a criterion noted about one group, and about all."""
    about = {name: note for name, note in notes.items() if name != BY_L1}
    by_l1 = notes.get(BY_L1, {})
    return {**about, BY_L1: {group: by_l1[group]}} if group in by_l1 else about


def _batches(model: nn.Module, context: Context, count: int) -> Iterator[Batch]:
    """Training data on the device where the network is trained just now."""
    device = next(model.parameters()).device
    for batch in islice(context.data.train.batches(SCORING_BATCH_SIZE, shuffle=context.seed), count):
        yield map_tensors(lambda tensor: tensor.to(device), batch)


def affordable(criterion: str, recovery: Recovery, examples: int, batch_size: int) -> tuple[int, int]:
    """How often units can be scored on the ramp of a training, and on how many batches each time.

    Args:
        criterion: who scores.
        recovery: the training.
        examples: in an epoch of it.
        batch_size: of its steps.
    """
    trained = SHAPING * recovery.epochs / recovery.among * examples
    most = min(max(int(trained / (batch_size * STEPS_BETWEEN)), 2), RENEWALS)
    if criterion in WITHOUT_DATA:
        return most, SCORING_BATCHES
    passes = (
        SCORING_SHARE * trained / ((DEAR_COST if criterion in DEAR else SCORING_COST) * SCORING_BATCH_SIZE)
    )
    times = min(max(round(math.sqrt(passes)), 2), most)
    return times, min(max(int(passes / times), 1), SCORING_BATCHES)


def _zeroed(model: nn.Module, gone: Mapping[str, Sequence[int]], context: Context) -> nn.Module:
    """A copy with these units zeroed, and BatchNorm statistics estimated anew."""
    scratch = copy.deepcopy(model)
    Observed(scratch, example_inputs(context.data)).zero(gone)
    context.mend(scratch)
    return scratch
