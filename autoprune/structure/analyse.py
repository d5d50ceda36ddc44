"""Two ways into a network, tried in order; where both find nothing, layers are still left to work on.

1. `module`: the network as it is. Its code stays, and the integers in its attributes follow a cut. A size that is
   written into the code as a number stands in the way of the groups that it belongs to, and of these only.
2. `graph`: the network lifted to a graph of layers and ATen operations (`deployed.lift`), in which every such number
   can be changed.
3. `layers`: no structure was found. Sparsity, bits, distillation and depth remain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from autoprune.deployed.lift import lift
from autoprune.errors import ModelError
from autoprune.structure.cut import Observed
from autoprune.structure.groups import Group
from autoprune.structure.proof import INVISIBLE, NOT_IN_TIME, proven, some_of
from autoprune.structure.rules.products import DIVIDES
from autoprune.structure.rules.reductions import OF_WEIGHTS
from autoprune.tensors import Inputs

Way = Literal["module", "graph", "layers"]

SECONDS = 60.0
# A search ends by its own budget; what is pruned in it must not depend on how busy the machine was for a minute.
SEARCH_SECONDS = 900.0
# A graph takes the place of the user's own code only where it lets go of clearly more of the network.
CLEARLY_MORE = 1.05


@dataclass(frozen=True)
class Structure:
    """What can be cut out of a network.

    Attributes:
        way: how it was found; `prepared` makes the network that is cut in this way.
        groups: all groups, checked; those with a reason stay whole.
        tried: for each way: its name, how many groups it frees, what share of the parameters half of their units
            make, and why it was not taken.
        unknown: ATen operations that are not followed -> a line of the model.
    """

    way: Way
    groups: list[Group]
    tried: list[dict[str, Any]]
    unknown: dict[str, str]

    @property
    def free(self) -> list[Group]:
        """The groups that can be pruned."""
        return [group for group in self.groups if not group.reason]


def prepared(model: nn.Module, example: Inputs, way: Way) -> nn.Module:
    """The network to cut in this way: itself, or its graph (which shares its parameters).

    Raises:
        ModelError: it cannot be lifted.
    """
    return lift(model, example) if way == "graph" else model


def analyse(
    model: nn.Module, example: Inputs, *, seconds: float = SECONDS, unproven: bool = False
) -> Structure:
    """The groups of `model`, each checked, by the way that lets go of most.

    Args:
        model: the network, in eval mode; it stays as it is.
        example: inputs of batch size 1.
        seconds: time for the checks; groups that are not checked by then stay whole. A minute is right for who waits
            for an answer. A search gives `SEARCH_SECONDS`, far more than it takes: a group that is left out
            because other programs held the processor would make its space, and so its result, depend on the moment.
        unproven: let units go over which a norm is taken, although no check can prove the cut.

    Raises:
        ModelError: the network does not run on the example.
    """
    deadline = time.monotonic() + seconds
    found, graph_may_help = _found("module", model, example, deadline, unproven)
    if graph_may_help and time.monotonic() < deadline:
        try:
            lifted, _ = _found("graph", lift(model, example), example, deadline, unproven)
        except ModelError as error:
            found.tried.append({"way": "graph", "groups": 0, "share": 0.0, "reason": str(error)})
        else:
            found = _better(found, lifted)
    return found if found.free else replace(found, way="layers")


def _found(
    way: Way, model: nn.Module, example: Inputs, deadline: float, unproven: bool
) -> tuple[Structure, bool]:
    """What can be cut in one way, and whether a graph, in which every size can be changed, may allow more."""
    observed = Observed(model, example)
    left = max(0.0, deadline - time.monotonic())
    groups = proven(model, example, observed.groups, left, unproven=unproven)
    failed = {g.reason for g, before in zip(groups, observed.groups, strict=True) if not before.reason} - {""}
    if not unproven:
        groups = [replace(g, reason=g.reason or g.unproven) for g in groups]
    free = {g.name: some_of(g) for g in groups if not g.reason}
    tried = {"way": way, "groups": len(free), "share": round(observed.share(free), 4), "reason": ""}
    doubted = any(group.unproven in (DIVIDES, OF_WEIGHTS) for group in groups)
    may_help = observed.seen.held or doubted or bool(failed - {NOT_IN_TIME, INVISIBLE})
    return Structure(way, groups, [tried], observed.seen.unknown), may_help


def _better(found: Structure, lifted: Structure) -> Structure:
    ours, theirs = found.tried[0]["share"], lifted.tried[0]["share"]
    tried = [*found.tried, *lifted.tried]
    if theirs > CLEARLY_MORE * ours:
        tried[0]["reason"] = (
            f"sizes in its code, or weights computed in it, keep groups whole that its graph sets free "
            f"({theirs:.0%} of it)"
        )
        return replace(lifted, tried=tried)
    tried[1]["reason"] = "it sets no more free than the module itself"
    return replace(found, tried=tried)
