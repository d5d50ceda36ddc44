"""Starting a candidate from the weights of another one, in place of the reference's.

The donor's weights are put back to where they lay in the uncompressed network, by the units that its record says were
cut; what is cut reads zero. A candidate of the same architecture is then made from that network as it would be from the
reference, by all techniques in turn: units that read zero matter least, so whoever says what goes takes them first. It
is held against the record afterwards, and where the candidate kept a unit that the donor lacks, it is made from the
reference after all. Layers that the donor has in another form (factorized, dropped) come from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import nn

from autoprune.candidate import architecture_of, instantiate, read_header
from autoprune.compress.technique import Context
from autoprune.errors import ModelError
from autoprune.space import Choices
from autoprune.structure import Observed, prepared
from autoprune.task import example_inputs

Removed = Mapping[str, Sequence[int]]


class Origin(NamedTuple):
    """A donor's weights in the uncompressed network.

    Attributes:
        model: the network.
        removed: group -> the units that the donor lacks; they read zero.
    """

    model: nn.Module
    removed: Removed


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
        network, places = model, {}
        if removed:
            network = prepared(model, example_inputs(context.data), pruned["way"])
            if _has_own_parameters(network, model):
                return None  # of which the network that is handed back would know nothing
            places = Observed(network, example_inputs(context.data)).places(removed)
        taken = _put_back(network, load_tensors(checkpoint), places)
    except (ModelError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    return Origin(model, removed) if taken else None


def _has_own_parameters(network: nn.Module, model: nn.Module) -> bool:
    """Whether a lifted network computes weights once that the module computes in each pass."""
    shared = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) not in shared for parameter in network.parameters())


def covers(structure: Mapping[str, Any], removed: Removed) -> bool:
    """Whether a candidate of this structure lacks every unit that its donor lacked."""
    own = structure.get("prune", {}).get("removed", {})
    return all(set(units) <= set(own.get(group, ())) for group, units in removed.items())


@torch.no_grad()
def _put_back(
    network: nn.Module,
    donated: Mapping[str, torch.Tensor],
    places: Mapping[str, Sequence[np.ndarray[Any, Any] | None]],
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
        axes = [np.arange(s) if own is None else own for s, own in zip(tensor.shape, kept, strict=True)]
        tensor.zero_()
        tensor[tuple(torch.from_numpy(axis) for axis in np.ix_(*axes))] = donated[name].to(tensor.dtype)
    return taken
