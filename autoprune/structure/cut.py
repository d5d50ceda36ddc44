"""Cutting units out of a network, in place: every tensor that they occur in, and every size that is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from autoprune.errors import ModelError
from autoprune.structure.dimensions import Axis, Factor, kept, leaves
from autoprune.structure.groups import ROLES, Group, Role, groups_of
from autoprune.structure.observe import Observation, Requirement, observe, state_of
from autoprune.tensors import Inputs

Removed = Mapping[str, Sequence[int]]
"""Name of a group -> the units that go."""

Places = np.ndarray[Any, Any]


class Observed:
    """A network with what one forward pass showed of it; spent once it has been cut.

    Args:
        model: the network; nothing of it is changed but by `cut`.
        example: inputs of batch size 1.

    Raises:
        ModelError: the network does not run on the example.
    """

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        self.model = model
        try:
            self.seen: Observation = observe(model, example)
        except Exception as error:
            raise ModelError(f"the model does not run on its example inputs: {described(error)}") from error
        self.groups, self._factors = groups_of(self.seen)

    def group(self, name: str) -> Group:
        """The group of this name.

        Raises:
            ModelError: there is none.
        """
        found = next((group for group in self.groups if group.name == name), None)
        if found is None:
            raise ModelError(
                f"the model has no group {name!r}; it has {', '.join(g.name for g in self.groups)}"
            )
        return found

    def zero(self, removed: Removed, roles: Sequence[Role] = ROLES) -> None:
        """Zero every slice of these units that has one of the roles: where they are made, read, and in between."""
        tensors = state_of(self.model)
        with torch.no_grad():
            for name, units in removed.items():
                for part in self.group(name).slices:
                    tensor = tensors[part.tensor]
                    if part.role in roles and tensor.is_floating_point():
                        where = torch.from_numpy(part.positions[list(units)].reshape(-1))
                        tensor.index_fill_(part.axis, where.to(tensor.device), 0.0)

    def cut(self, removed: Removed) -> None:
        """Cut units out, in place; an optimizer must be made anew.

        Raises:
            ModelError: a group that the network lacks, units out of range, a group that would be left empty, or a
                size in the code that would have to be two things at once. Nothing has been cut then.
        """
        masks = self._masks(removed)
        if not masks:
            return
        edits = _edits(self.seen.requirements, masks)
        names = _names_of_one_tensor(self.model)
        for name, chosen in self.places(removed).items():  # one by one: never two whole networks in memory
            smaller = _selected(_get(self.model, name), chosen)
            for alias in names[name]:
                _set(self.model, alias, smaller)
        for requirement, size in edits:
            requirement.source.set(size)
        if isinstance(self.model, fx.GraphModule):
            self.model.recompile()
        follow_shapes(self.model)

    def places(self, removed: Removed) -> dict[str, list[Places | None]]:
        """Of each tensor that these units occur in, the positions along each axis that stay; None where all do."""
        masks = self._masks(removed)
        chosen = {
            name: [np.flatnonzero(kept(ax, masks)) if _touches(ax, masks) else None for ax in axes]
            for name, axes in self.seen.axes.items()
        }
        return {name: places for name, places in chosen.items() if any(one is not None for one in places)}

    def share(self, removed: Removed) -> float:
        """What share of the parameters these units make."""
        masks = self._masks(removed)
        parameters = dict(self.model.named_parameters())
        sizes = [math.prod(parameters[name].shape) for name in self.seen.axes if name in parameters]
        left = [
            math.prod(int(kept(ax, masks).sum()) for ax in axes)
            for name, axes in self.seen.axes.items()
            if name in parameters
        ]
        return 1.0 - sum(left) / max(1, sum(sizes))

    def _masks(self, removed: Removed) -> dict[Factor, np.ndarray[Any, Any]]:
        """Which units stay of each factor of which some go."""
        chosen = {self.group(name).name: units for name, units in removed.items() if len(units)}
        return {self._factors[name]: self._mask(name, units) for name, units in chosen.items()}

    def _mask(self, name: str, units: Sequence[int]) -> np.ndarray[Any, Any]:
        group = self.group(name)
        if min(units) < 0 or max(units) >= group.units:
            raise ModelError(f"{name}: units go from 0 to {group.units - 1}, got {sorted(units)}")
        stays = np.ones(group.units, dtype=bool)
        stays[list(units)] = False
        if not stays.any():
            raise ModelError(
                f"cannot cut all {group.units} {group.kind} of group {name!r}: nothing would be left"
            )
        return stays


def described(error: BaseException) -> str:
    """An exception in one sentence, with the line of the model's code where it arose."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}{line_of(error)}"


def line_of(error: BaseException) -> str:
    """` (file:line)` of the last frame that is not torch's or ours; empty when there is none."""
    found, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code.co_filename
        if "/torch/" not in code and "/autoprune/" not in code and not code.startswith("<"):
            found = f" ({code.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _touches(ax: Axis, masks: Mapping[Factor, Any]) -> bool:
    return any(leaf in masks for leaf in leaves(ax))


def _edits(requirements: Sequence[Requirement], masks: Mapping[Factor, Any]) -> list[tuple[Requirement, int]]:
    """The integers of the model that must change, with what they become."""
    wanted: dict[Any, tuple[Requirement, int]] = {}
    for requirement in requirements:
        source = requirement.source
        size = (
            int(kept(requirement.axis, masks).sum())
            if _touches(requirement.axis, masks)
            else requirement.value
        )
        known = wanted.setdefault(source.key, (requirement, size))
        if known[1] != size:
            raise ModelError(
                f"{source.label} ({requirement.value}) would have to be {known[1]} ({known[0].line}) and {size} "
                f"({requirement.line}) at once"
            )
    return [(requirement, size) for requirement, size in wanted.values() if size != requirement.value]


def _selected(tensor: torch.Tensor, places: Sequence[Places | None]) -> torch.Tensor:
    found = tensor.detach()
    for i, own in enumerate(places):
        if own is not None:
            found = found.index_select(i, torch.from_numpy(own).to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(found.contiguous(), requires_grad=tensor.requires_grad)
    return found.contiguous()


def _names_of_one_tensor(model: nn.Module) -> dict[str, list[str]]:
    """First name of each tensor -> all of its names: what is tied stays tied."""
    found: dict[int, list[str]] = {}
    for name, tensor in state_of(model).items():
        found.setdefault(id(tensor), []).append(name)
    return {names[0]: names for names in found.values()}


def _get(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(owner), attribute)
    return tensor


def _set(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, tensor)


RECURRENT = {"input_size": "weight_ih_l0", "hidden_size": "weight_hh_l0"}


def follow_shapes(model: nn.Module) -> None:
    """Set the attributes of torch's layers that repeat the shapes of their weights."""
    for module in model.modules():
        for attribute, size in _shape_attributes(module).items():
            if getattr(module, attribute, size) != size:
                setattr(module, attribute, size)


def _shape_attributes(module: Any) -> dict[str, Any]:
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = (
            ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
        )
        return {first: shape[0], second: shape[1] * module.groups}
    if isinstance(module, nn.RNNBase):
        return {name: getattr(module, own).shape[1] for name, own in RECURRENT.items()}
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        known = weight if weight is not None else module.running_mean
        return {} if known is None else {"num_features": len(known)}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and shape:
        return {"normalized_shape": shape}
    if isinstance(module, nn.GroupNorm) and shape:
        return {"num_channels": shape[0]}
    if isinstance(module, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if (
        type(module).__name__ == "Conv1D" and len(shape) == 2
    ):  # transformers' linear layer with a transposed weight
        return {"nx": shape[0], "nf": shape[1]}
    return {}
