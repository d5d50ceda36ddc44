"""Starting a candidate from the weights of another one, in place of the reference's.

The donor's weights are put back to where they lay in the uncompressed network, by the units that its record says were
cut; what is cut reads zero. A candidate of the same architecture is then made from that network as it would be from the
reference, by all techniques in turn: units that read zero matter least, so whoever says what goes takes them first. It
is held against the record afterwards.

A unit that the donor lacks and the candidate keeps gets the reference's weights, but nobody listens to it at first:
the candidate computes what the donor did, and learns what to make of the unit (after "Net2Net", Chen et al. 2016,
https://arxiv.org/abs/1511.05641). Where units meet other than through a weight of their own (scores of attention,
groups of a convolution) it computes something else. A candidate that keeps such a unit and lacks one of the same group
that the donor has is made from the reference after all. Layers that the donor has in another form (factorized,
dropped) come from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import nn

from autoprune.candidate import architecture_of, instantiate, make, read_header
from autoprune.compress.prune import LOTTERY_TICKET
from autoprune.compress.technique import Context, Technique
from autoprune.errors import ModelError
from autoprune.record import INHERITED, Donor
from autoprune.space import Choices
from autoprune.structure import Observed, prepared
from autoprune.task import example_inputs

Removed = Mapping[str, Sequence[int]]
Places = Mapping[str, Sequence[np.ndarray[Any, Any] | None]]


# Parts of a structure after which weights are not where they were, or may not be what they were.
REWRITTEN = ("sparsify", "factorize", "depth")


class Origin(NamedTuple):
    """A donor's weights in the uncompressed network.

    Attributes:
        model: the network.
        removed: group -> the units that the donor lacks; they read zero.
        observed: the same network in the form in which it is cut; None where the donor lacks nothing.
        before: its tensors without the donor's weights.
    """

    model: nn.Module
    removed: Removed
    observed: Observed | None
    before: Mapping[str, torch.Tensor]


def heir_of(
    donor: Donor | None, techniques: Sequence[Technique], choices: Choices, context: Context
) -> nn.Module | None:
    """The candidate made from its donor's weights, which its structure records; None where it has none that fit.

    Args:
        donor: of the candidate.
        techniques: of the search, in their order.
        choices: of the candidate.
        context: of the candidate; its structure is empty.
    """
    origin = origin_of(donor.weights, choices, context) if donor is not None and donor.weights else None
    if donor is None or origin is None:
        return None
    context.origin = origin.model
    model = make(techniques, choices, context)
    if settle(model, origin, context.structure):
        context.structure[INHERITED] = donor.trial
        return model
    context.origin = None
    context.structure.clear()
    return None


def origin_of(checkpoint: bytes, choices: Choices, context: Context) -> Origin | None:
    """The network to start a candidate from; None where the donor's weights have no place in it.

    Args:
        checkpoint: of the donor.
        choices: of the candidate; its architecture must be the donor's.
        context: of the candidate; only looked at.
    """
    architecture = architecture_of(choices)
    try:
        structure = read_header(checkpoint)["structure"]
        if structure["architecture"] != architecture:
            return None
        model = instantiate(architecture, context)
        pruned = structure.get("prune", {})
        removed = pruned.get("removed", {})
        network, observed = model, None
        if removed:
            network = prepared(model, example_inputs(context.data), pruned["way"])
            if _has_own_parameters(network, model):
                return None  # of which the network that is handed back would know nothing
            observed = Observed(network, example_inputs(context.data))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        places = {} if observed is None else observed.places(removed)
        taken = put_back(network, load_tensors(checkpoint), places)
    except (ModelError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    return Origin(model, removed, observed, before) if taken else None


def _has_own_parameters(network: nn.Module, model: nn.Module) -> bool:
    """Whether a lifted network computes weights once that the module computes in each pass."""
    shared = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) not in shared for parameter in network.parameters())


def is_ticket(structure: Mapping[str, Any]) -> bool:
    """Whether a candidate is a lottery ticket, which goes back to weights from before any training."""
    return any(
        isinstance(part, dict) and part.get("schedule") == LOTTERY_TICKET for part in structure.values()
    )


def settle(model: nn.Module, origin: Origin, structure: Mapping[str, Any]) -> bool:
    """Whether a candidate may start as it was made from its donor; what it has beyond the donor is added to it.

    Args:
        model: the candidate, made from `origin`; changed in place.
        origin: of its donor.
        structure: of the candidate.
    """
    if is_ticket(structure):
        return False
    own = structure.get("prune", {}).get("removed", {})
    pairs = [(set(own.get(group, ())), set(units)) for group, units in origin.removed.items()]
    if all(lacked <= gone for gone, lacked in pairs):
        return True
    agree = all(lacked <= gone or gone <= lacked for gone, lacked in pairs)
    if not agree or origin.observed is None or any(part in structure for part in REWRITTEN):
        return False
    mine, donors = origin.observed.places(own), origin.observed.places(origin.removed)
    kept = {name: _axes(origin.before[name].shape, mine.get(name)) for name in donors}
    state = model.state_dict(keep_vars=True)
    if any(name not in state or list(state[name].shape) != [len(a) for a in kept[name]] for name in donors):
        return False
    for name, axes in kept.items():
        _add(state[name], origin.before[name], axes, donors[name], _read_along(model, name))
    return True


@torch.no_grad()
def _add(
    tensor: torch.Tensor,
    before: torch.Tensor,
    kept: Sequence[np.ndarray[Any, Any]],
    donated: Sequence[np.ndarray[Any, Any] | None],
    read_along: int | None,
) -> None:
    """Give units that only the candidate has their weights, but none to whoever reads them.

    Args:
        tensor: of the candidate; changed in place.
        before: the same of the uncompressed network without the donor's weights.
        kept, donated: positions of the candidate and of the donor in it, for each axis.
        read_along: the axis along which it reads.
    """
    if not tensor.is_floating_point():
        return
    whole = before[tuple(torch.from_numpy(axis) for axis in np.ix_(*kept))].to(tensor)
    for number, (axis, own) in enumerate(zip(kept, donated, strict=True)):
        if own is not None and number != read_along:
            new = torch.from_numpy(np.flatnonzero(~np.isin(axis, own))).to(tensor.device)
            tensor.index_copy_(number, new, whole.index_select(number, new))


def _read_along(model: nn.Module, name: str) -> int | None:
    """The axis of a weight along which its layer reads; None where that is no axis of its own, or not known."""
    layer, _, own = name.rpartition(".")
    module = model.get_submodule(layer)
    if isinstance(module, nn.MultiheadAttention) and own == "in_proj_weight":
        return 1
    if own != "weight" or getattr(module, "groups", 1) != 1:
        return None
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return 0
    return 1 if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) else None


@torch.no_grad()
def put_back(
    network: nn.Module,
    donated: Mapping[str, torch.Tensor],
    places: Places,
) -> int:
    """Write tensors to where they were cut out, zero around them; how many fitted.

    Args:
        network: uncompressed; changed in place.
        donated: the donor's tensors.
        places: tensor -> for each axis the positions that the donor has; None where it has all.
    """
    taken = 0
    for name, tensor in network.state_dict(keep_vars=True).items():
        kept = places.get(name, [None] * tensor.dim())
        shape = [size if own is None else len(own) for size, own in zip(tensor.shape, kept, strict=True)]
        if name not in donated or list(donated[name].shape) != shape:
            continue
        taken += 1
        if all(own is None for own in kept):
            tensor.copy_(donated[name])
            continue
        tensor.zero_()
        where = np.ix_(*_axes(tensor.shape, kept))
        tensor[tuple(torch.from_numpy(axis) for axis in where)] = donated[name].to(tensor.dtype)
    return taken


def _axes(
    shape: Sequence[int], kept: Sequence[np.ndarray[Any, Any] | None] | None
) -> list[np.ndarray[Any, Any]]:
    """The positions along each axis, where None stands for all of them."""
    chosen = [None] * len(shape) if kept is None else kept
    return [np.arange(size) if own is None else own for size, own in zip(shape, chosen, strict=True)]
