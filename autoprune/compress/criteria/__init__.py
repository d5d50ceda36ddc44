"""Which units of a group matter least: one criterion each, by name, and how all groups of a network are scored.

A criterion is a function `(evidence) -> (group -> scores)`: it first observes what it needs of the network, its
gradients, its curvature, its activations, once for all groups; what it returns gives every unit of a group (a
channel, a head, ...) a score, and the lowest are cut. Groups are scored each for its own ratio, so scores need not
compare between groups. Where several layers write or read a group, sizes of weights and activations are brought to
one scale, so that no layer outvotes the others; changes of the loss have one scale already.
"""

from __future__ import annotations

import torch

from autoprune.compress.criteria.activation import activation
from autoprune.compress.criteria.bn_scale import bn_scale
from autoprune.compress.criteria.fpgm import fpgm
from autoprune.compress.criteria.hessian import hessian
from autoprune.compress.criteria.magnitude import absolute_weights, l1, l2, lamp
from autoprune.compress.criteria.mrmr import mrmr, refusal
from autoprune.compress.criteria.random import random
from autoprune.compress.criteria.taylor import taylor
from autoprune.compress.criteria.units import Criterion, Evidence, Score, Unscored
from autoprune.errors import BadInput, TaskError
from autoprune.references import nearest
from autoprune.structure import Group
from autoprune.task import Data
from autoprune.tensors import in_eval_mode

__all__ = ["BUILT_IN", "Criterion", "Evidence", "check", "load_criterion", "score"]

BUILT_IN: dict[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "lamp": lamp,
    "fpgm": fpgm,
    "taylor": taylor,
    "hessian": hessian,
    "bn_scale": bn_scale,
    "activation": activation,
    "mrmr": mrmr,
    "random": random,
}


def load_criterion(name: str) -> Criterion:
    """The built-in criterion of this name.

    Raises:
        BadInput: there is none.
    """
    if name not in BUILT_IN:
        raise BadInput(
            f"prune.criterion: got {name!r}, expected one of {', '.join(BUILT_IN)}{nearest(name, BUILT_IN)}"
        )
    return BUILT_IN[name]


def check(name: str, data: Data) -> None:
    """Refuse a criterion that cannot work with these data.

    Raises:
        TaskError: the targets do not say what it needs to know.
    """
    if name == "mrmr" and (why := refusal(data)):
        others = ", ".join(other for other in BUILT_IN if other != name)
        raise TaskError(f"space.prune.criterion: {why}; choose among {others}")


def score(name: str, evidence: Evidence) -> dict[str, torch.Tensor]:
    """Scores of every unit of the groups, by group name, shape (units,); the lowest are the ones to cut.

    A group of which the criterion observed nothing is scored by `l1`; `evidence.notes["by_l1"]` says which, and why.

    Raises:
        BadInput: there is no such criterion.
        TaskError: the targets do not say what it needs to know.
    """
    criterion = load_criterion(name)
    with in_eval_mode(evidence.model), torch.no_grad():
        score_of = criterion(evidence)
        return {group.name: _scores(score_of, group, evidence) for group in evidence.groups}


def _scores(score_of: Score, group: Group, evidence: Evidence) -> torch.Tensor:
    try:
        found = score_of(group)
        if not bool(found.isfinite().all()):
            raise Unscored("its scores are not finite")
    except Unscored as why:
        evidence.notes.setdefault("by_l1", {})[group.name] = str(why)
        return absolute_weights(group, evidence.model)
    return found
