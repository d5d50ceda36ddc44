"""Is a cut what it should be? The network without some units must equal the network with these units zeroed.

No observation is trusted until that has been seen. Most groups of a network are right, so all are tried at once; only
when that fails are they tried by kinds of layers (the same layer in twelve blocks fails or passes as one), then one
by one, as far as the time allows, and always together with those that have passed.
"""

from __future__ import annotations

import copy
import math
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.structure.cut import Observed, Removed, described
from autoprune.structure.groups import Group
from autoprune.structure.observe import state_of
from autoprune.structure.running import plain_execution, run
from autoprune.tensors import Inputs, map_tensors, tensors_in

# Outputs of the cut and of the zeroed network agree to rounding, relative to the largest output. Over a hundred
# networks right cuts differ by up to 3e-6; an attention that divides by the root of its new width, by 1e-4 and more.
TOLERANCE = 2e-5
# Zeroing must move the outputs by far more than rounding does, or the check proves nothing.
VISIBLE = 50 * TOLERANCE
# Weights with less than this share of 1 / sqrt(inputs) are drawn larger, or attention would be too even to show much.
LIVELY = 0.5
# How far weights are perturbed, relative to their spread: as often as nothing shows (behind a ReLU that is dead).
STRENGTHS = (0.1, 0.5, 2.5)
HALF = (torch.float16, torch.bfloat16)
DIFFERENT = "cutting its units gives other outputs than zeroing them: their indices cannot be followed"
INVISIBLE = "its units do not show in the outputs, so that no cut of them can be checked"
NOT_IN_TIME = "it was not checked in the time given"
OUTPUTS = "its units are outputs of the model"


def check_cut(model: nn.Module, example: Inputs, removed: Removed, *, visible: bool = True) -> str:
    """Why cutting these units is not the same as zeroing them; empty when it is.

    A copy with redrawn parameters (so that no zero, and no two equal weights, hide a mistake) is run three
    times: whole, with the units zeroed wherever they occur, and with them cut. Units over which a norm is taken
    (`Group.unproven`) cannot be compared; for these the cut network must run and keep the form of its outputs.

    Args:
        model: the network, which stays as it is.
        example: inputs of batch size 1.
        removed: group -> units.
        visible: whether zeroing must show in some output for the check to count.
    """
    removed = {name: units for name, units in removed.items() if len(units)}
    if not removed:
        return ""
    try:
        for strength in STRENGTHS:
            reason = _compared(copy.deepcopy(model), example, removed, strength)
            if reason != INVISIBLE:
                return reason
    except ModelError as error:
        return str(error)
    except Exception as error:  # whatever a stranger's forward raises on fewer units is the finding
        return f"the model does not run without some of its units: {described(error)}"
    return INVISIBLE if visible else ""


def _compared(probe: nn.Module, example: Inputs, removed: Removed, strength: float) -> str:
    """`check_cut` on a network that is spent by it."""
    example = redraw(probe, example, strength)
    observed = Observed(probe, example)
    comparable = not any(observed.group(name).unproven for name in removed)
    with plain_execution(probe):
        whole = _outputs(probe, example)
        zeroed = _zeroed(observed, example, removed, whole)
        observed.cut(removed)
        without = _outputs(probe, example)
    if [output.shape for output in zeroed] != [output.shape for output in without]:
        return OUTPUTS
    if not comparable:
        finite = all(output.isfinite().all() for output in without)
        return "" if finite else "the outputs are no numbers any more"
    if not _distance(zeroed, without, whole, zeroed) <= TOLERANCE:
        return DIFFERENT
    return "" if _distance(whole, zeroed, whole, zeroed) >= VISIBLE else INVISIBLE


def _zeroed(
    observed: Observed, example: Inputs, removed: Removed, whole: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Outputs of the network with these units zeroed wherever they occur.

    Where something is divided by what lies between the weights (the grid of a spline, a scale of each channel), zeroing
    that, too, gives no numbers; then only the weights that make and read the units are zeroed.
    """
    state = state_of(observed.model)
    between = {part.tensor for name in removed for part in observed.group(name).role("follows")}
    before = {name: state[name].detach().clone() for name in between}
    observed.zero(removed)
    zeroed = _outputs(observed.model, example)
    if all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(whole, zeroed, strict=True)):
        return zeroed
    for name, tensor in before.items():
        state[name].copy_(tensor)
    observed.zero(removed, ("writes", "reads"))
    return _outputs(observed.model, example)


def _outputs(model: nn.Module, example: Inputs) -> list[torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = tensors_in(run(model, example))
    return [output.float() for output in outputs if not output.dtype.is_complex]


def _distance(some: list[torch.Tensor], others: list[torch.Tensor], *scales: list[torch.Tensor]) -> float:
    """The largest difference of two lists of outputs, each relative to the largest finite value in `scales`."""
    largest = 0.0
    for one, other, *sizes in zip(some, others, *scales, strict=True):
        finite = one.isfinite()
        if not torch.equal(finite, other.isfinite()):
            return math.inf
        scale = max(1e-12, *(_largest(size) for size in sizes))
        largest = max(largest, _largest(torch.where(finite, one - other, 0.0)) / scale)
    return largest


def _largest(tensor: torch.Tensor) -> float:
    """The largest finite absolute value, 0 where there is none."""
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


@torch.no_grad()
def redraw(model: nn.Module, example: Inputs, strength: float) -> Inputs:
    """Perturb every parameter and statistic, so that no two are equal and none is zero; from a fixed seed.

    Args:
        model: the network, changed in place.
        example: its inputs.
        strength: size of the perturbation, relative to the spread of each parameter.

    Returns:
        the example in the precision that the network has now: half precision is widened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if any(parameter.dtype in HALF for parameter in model.parameters()):
            model.float()
            example = map_tensors(lambda tensor: tensor.float() if tensor.dtype in HALF else tensor, example)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                _perturb(parameter, strength)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn_like(buffer), alpha=0.1)
            if name.endswith("running_var"):
                buffer.mul_(1.0 + 0.1 * torch.rand_like(buffer))
    return example


def _perturb(parameter: torch.Tensor, strength: float) -> None:
    spread = parameter.std().item() if parameter.numel() > 1 else 0.0
    if parameter.dim() < 2 or spread < 1e-6 or not parameter.is_contiguous():
        parameter.add_(torch.randn_like(parameter), alpha=strength * (spread if spread > 1e-6 else 1.0))
        return
    lively = LIVELY / math.sqrt(parameter.numel() / len(parameter))
    parameter.mul_(max(1.0, lively / spread))
    rows = parameter.view(len(parameter), -1)  # noise of rank one, which takes no memory
    rows.addr_(torch.randn_like(rows[:, 0]), torch.randn_like(rows[0]), alpha=strength * max(spread, lively))


def proven(
    model: nn.Module, example: Inputs, groups: Sequence[Group], seconds: float, *, unproven: bool = False
) -> list[Group]:
    """The same groups, with a reason on each whose cut is not what it should be.

    Those without a reason have been cut together, too: they do not stand in each other's way.

    Args:
        model: the network, which stays as it is.
        example: inputs of batch size 1.
        groups: its groups; those with a reason already stay as they are.
        seconds: what is not checked in so much time stays whole, with that as its reason.
        unproven: try those over which a norm is taken, too: whether the network runs without some of their units.
    """
    search = _Search(model, example, time.monotonic() + seconds)
    search.add([g for g in groups if not g.reason and not g.unproven])
    if unproven:
        search.add([g for g in groups if not g.reason and g.unproven])
    return [replace(g, reason=search.reasons[g.name]) if g.name in search.reasons else g for g in groups]


class _Search:
    """Finds a set of groups that can all be cut, and says of each other one why it is not among them."""

    def __init__(self, model: nn.Module, example: Inputs, deadline: float) -> None:
        self._model, self._example, self._deadline = model, example, deadline
        self._accepted: list[Group] = []
        self.reasons: dict[str, str] = {}

    def add(self, groups: list[Group]) -> None:
        """Accept these together with all accepted so far, or else by halves: of kinds, then of groups."""
        why = self._refusal(groups) if groups else ""
        if not why:
            self._accepted += groups
        elif len(groups) == 1 or why == NOT_IN_TIME:
            self.reasons.update({group.name: why for group in groups})
        else:
            kinds: dict[str, list[Group]] = {}
            for group in groups:
                kinds.setdefault(_kind(group), []).append(group)
            if len(kinds) == 1:
                self._add_alike(groups)
                return
            middle = len(kinds) // 2
            for half in (list(kinds.values())[:middle], list(kinds.values())[middle:]):
                self.add([group for kind in half for group in kind])

    def _add_alike(self, groups: list[Group]) -> None:
        """The same layer of several blocks: when the first two fail, all do."""
        for group in groups[:2]:
            self.add([group])
        rest = groups[2:]
        if rest and all(group.name in self.reasons for group in groups[:2]):
            why = f"as {groups[0].name}: {self.reasons[groups[0].name]}"
            self.reasons.update({group.name: why for group in rest})
            return
        for group in rest:
            self.add([group])

    def _refusal(self, groups: Sequence[Group]) -> str:
        if time.monotonic() > self._deadline:
            return NOT_IN_TIME
        together = [*self._accepted, *groups]
        return check_cut(self._model, self._example, {group.name: some_of(group) for group in together})


def some_of(group: Group) -> list[int]:
    """Between a quarter and six tenths of a group's units, at least one, never all: others in each group.

    Different shares in different groups, because two halves of a sliced axis could pass by being cut alike.
    """
    rng = np.random.default_rng(zlib.crc32(group.name.encode()))
    count = min(max(1, round(group.units * rng.uniform(0.25, 0.6))), group.units - 1)
    return sorted(int(unit) for unit in rng.choice(group.units, count, replace=False))


def _kind(group: Group) -> str:
    """What the same layers of different blocks have in common."""
    return re.sub(r"\d+", "#", group.name) + f"/{group.kind}"
