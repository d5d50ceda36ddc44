"""Cutting channels out of a network, and the check that a cut does what it should.

torch-pruning's dependency graph is right for most networks and silently wrong for a few (padded shortcuts,
shuffled channels, attention heads). So no cut is trusted until it has been seen to equal zeroing the same
channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoprune.compress.dependency import (
    BATCH_NORMS,
    LAYERS,
    depth_of,
    group_of,
    layers_of,
    tensors_in,
    traced,
    width_of,
)
from autoprune.errors import ModelError

# Outputs of the cut and of the zeroed network agree to rounding, relative to the largest output.
TOLERANCE = 1e-5


def cut(model: nn.Module, example: torch.Tensor, removed: Mapping[str, Sequence[int]]) -> None:
    """Cut channels out of `model`, in place.

    Args:
        model: the network; its parameters are replaced, so that an optimizer must be made anew.
        example: inputs of batch size 1.
        removed: name of a group -> indices of its channels.

    Raises:
        ModelError: a group that the model lacks, indices out of range, or a cut that would leave a layer
            empty or the groups of a convolution uneven. The model may then be partly cut.
    """
    if any(len(channels) > 0 for channels in removed.values()):
        with traced(model, example) as graph:
            _cut(graph, model, removed)


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, as they really are."""
    return {name: width_of(layer) for name, layer in layers_of(model)}


def check_cut(
    model: nn.Module, example: torch.Tensor, removed: Mapping[str, Sequence[int]], visible: float = 0.0
) -> str:
    """Why cutting the channels in `removed` is not the same as zeroing them; empty when it is.

    A copy with redrawn parameters (so that no zero, and no two equal weights, hide a mistake) is run three
    times: whole, with the channels zeroed where they are made and where they are read, and with them cut.
    Zeroing where they are read matters after functions that do not keep zero, like the sigmoid.

    Args:
        model: the network, which stays as it is.
        example: inputs of batch size 1.
        removed: as for `cut`.
        visible: how far zeroing must move some output, relative to the largest, for the check to count.
    """
    if not any(len(channels) > 0 for channels in removed.values()):
        return ""
    try:
        whole, zeroed, without = _three_ways(copy.deepcopy(model), _probe_inputs(example), removed)
    except ModelError as error:
        return str(error)
    except Exception as error:  # whatever a stranger's forward raises on fewer channels is the finding
        first_line = str(error).strip().partition("\n")[0]
        return f"the model does not run without some of its channels ({type(error).__name__}: {first_line})"
    if [output.shape for output in zeroed] != [output.shape for output in without]:
        return "its channels are outputs of the model"
    if not _distance(zeroed, without, whole) <= TOLERANCE:
        return "cutting its channels gives other outputs than zeroing them: their indices cannot be followed"
    if not _distance(whole, zeroed, whole) >= visible:
        return "its channels do not show in the outputs, so that no cut of them can be checked"
    return ""


def _three_ways(
    probe: nn.Module, inputs: torch.Tensor, removed: Mapping[str, Sequence[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Outputs of `probe` whole, zeroed and cut; `probe` is spent."""
    _redraw(probe)
    tied = _tied(probe)
    with traced(probe, inputs) as graph:
        whole = _run(probe, inputs)
        for _, coupled in list(_selected(graph, probe, removed)):
            for dep, idxs in coupled:
                _zero(graph, dep, torch.tensor(idxs))
        zeroed = _run(probe, inputs)
        _cut(graph, probe, removed)
    if _tied(probe) != tied:
        raise ModelError("its weights are shared with another layer, and a cut would part them")
    return whole, zeroed, _run(probe, inputs)


def _distance(some: list[torch.Tensor], others: list[torch.Tensor], scale: list[torch.Tensor]) -> float:
    """The largest difference of two lists of outputs, relative to the largest value of each in `scale`."""
    return max(
        ((one - other).abs().max() / size.abs().max().clamp_min(1e-12)).item()
        for one, other, size in zip(some, others, scale, strict=True)
    )


def _cut(graph: Any, model: nn.Module, removed: Mapping[str, Sequence[int]]) -> None:
    for name, coupled in _selected(graph, model, removed):
        for dep, idxs in coupled:
            if problem := _problem(graph, dep, idxs):
                raise ModelError(f"cannot cut {len(removed[name])} channels of group {name!r}: {problem}")
        coupled.prune(record_history=False)


def _selected(
    graph: Any, model: nn.Module, removed: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, Any]]:
    """torch-pruning's group of each selection, in module order: the same selection, the same cuts.

    Lazily, because a cut moves the indices of what is concatenated behind it.
    """
    layers = dict(layers_of(model))
    if unknown := [name for name in removed if name not in layers]:
        raise ModelError(f"the model has no layer {unknown[0]!r} to cut; it has {', '.join(layers)}")
    for name, layer in layers.items():
        if channels := sorted(set(removed.get(name, ()))):
            if channels[0] < 0 or channels[-1] >= width_of(layer):
                raise ModelError(f"{name}: channels go from 0 to {width_of(layer) - 1}, got {channels}")
            yield name, group_of(graph, layer, channels)


def _problem(graph: Any, dep: Any, idxs: Sequence[int]) -> str:
    """Why one layer cannot lose these rows or columns; empty when it can."""
    module, is_output = dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)
    if not isinstance(module, LAYERS):
        return ""
    size = width_of(module) if is_output else depth_of(module)
    if len(idxs) >= size:
        return f"nothing would be left of {dep.target.name}"
    groups = getattr(module, "groups", 1)
    block = size // groups
    if 1 < groups < width_of(module):
        parts = [{i % block for i in idxs if i // block == part} for part in range(groups)]
        if any(part != parts[0] for part in parts):
            return f"the groups of {dep.target.name} would be uneven"
    return ""


@torch.no_grad()
def _zero(graph: Any, dep: Any, idxs: torch.Tensor) -> None:
    """Zero what `dep` would cut, so that these channels are 0 behind the layer, or unread by it."""
    module = dep.target.module
    if isinstance(module, nn.Parameter):
        module.index_fill_(dep.target.pruning_dim, idxs, 0.0)
        return
    is_output = graph.is_out_channel_pruning_fn(dep.handler)
    if isinstance(module, LAYERS):
        is_depthwise = dep.target.type == graph.ops.OPTYPE.DEPTHWISE_CONV
        axis = 0 if is_depthwise else int(getattr(module, "transposed", False) is is_output)
        # The input axis of a grouped convolution counts within a group.
        module.weight.index_fill_(axis, idxs % module.weight.shape[axis], 0.0)
    elif isinstance(module, nn.Embedding):
        module.weight.index_fill_(1, idxs, 0.0)
    if is_output:
        for name in ("bias", "running_mean"):
            if getattr(module, name, None) is not None:
                getattr(module, name).index_fill_(0, idxs, 0.0)


@torch.no_grad()
def _redraw(model: nn.Module) -> None:
    """Draw all parameters and BatchNorm statistics anew, every channel different and none dead."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dim() > 1:
            parameter.normal_(0.0, (2.0 * parameter.shape[0] / parameter.numel()) ** 0.5, generator=generator)
        elif parameter.is_floating_point():
            parameter.uniform_(0.5, 1.5, generator=generator)
    for norm in model.modules():
        if isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0.0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)


def _probe_inputs(example: torch.Tensor) -> torch.Tensor:
    """The example and, where inputs are continuous, noise behind it (an image's margins may all be 0)."""
    if not example.is_floating_point():
        return example
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0), dtype=example.dtype)
    return torch.cat([example, noise])


@torch.no_grad()
def _run(model: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    return [output for output in tensors_in(model(inputs)) if output.is_floating_point()]


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(shared for shared in names.values() if len(shared) > 1)
