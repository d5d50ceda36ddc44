"""Low rank: a layer becomes two thinner ones, whose product is the best approximation of its weight.

    linear a → b             linear a → r, linear r → b                (Denton et al. 2014)
    convolution k×l          k×1 into r channels, 1×l out of them      (Jaderberg et al. 2014)
    any other convolution    its own kernel into r channels, then 1×1  (Denton et al. 2014)

By Eckart and Young no product of that rank is nearer; what is lost is the tail of the singular values. The two
layers stand in a `Factors` (an `nn.Sequential`) under the path of the one that they replace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from autoprune.compress.technique import Context, Technique
from autoprune.references import matches
from autoprune.space import Choice, Choices, Options, Range
from autoprune.tensors import call

if TYPE_CHECKING:
    from autoprune.targets import Target

METHOD = "factorize.method"
SVD = "svd"
METHODS = (SVD,)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Factorize(Technique):
    """Replace layers by two of low rank each, by truncated singular value decomposition.

    The rank is a share of the full one. A layer is left whole at 1, and wherever the two would not have fewer
    parameters than it has. It costs one decomposition per layer, and nothing in training.

    Args:
        rank: the choice of each layer's share of its full rank, above 0.
        method: the choice of `svd` (https://arxiv.org/abs/1404.0736, https://arxiv.org/abs/1405.3866).
        include: patterns of layer names that may be factorized; empty means all.
        exclude: patterns of layer names that stay whole.
    """

    name = "factorize"

    def __init__(
        self,
        rank: Choice = Range(0.2, 1.0, neutral=1.0),  # noqa: B008 (immutable)
        method: Options = Options(METHODS, SVD),  # noqa: B008
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> None:
        self.rank, self.method = rank, method
        self.include, self.exclude = tuple(include), tuple(exclude)

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """One rank for each layer that can be factorized."""
        free = [layer for layer, reason in self._layers(model, example) if not reason]
        ranks: dict[str, Choice] = {_choice_of(layer): self.rank for layer in free}
        return {**ranks, METHOD: self.method} if ranks else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """`layers`: name, full rank, the highest share of it that saves parameters, and why a layer stays whole."""
        return {
            "layers": [
                _described(layer, _candidates(model)[layer], why)
                for layer, why in self._layers(model, example)
            ]
        }

    def _layers(self, model: nn.Module, example: Any) -> Iterator[tuple[str, str]]:
        """Every linear layer and convolution, with the reason if it stays whole."""
        reasons = {layer: self._reason(model, layer) for layer in _candidates(model)}
        past = _read_past(model, [layer for layer, why in reasons.items() if not why], example)
        for layer, why in reasons.items():
            yield (
                layer,
                why or ("the network reads its weight, not its outputs alone" if layer in past else ""),
            )

    def _reason(self, model: nn.Module, layer: str) -> str:
        if why := _why_whole(model, layer):
            return why
        if self.include and not matches(layer, self.include):
            return "not included by the spec"
        return "excluded by the spec" if matches(layer, self.exclude) else ""

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Replace layers in place, from their weights as they are now; records rank and full rank of each.

        Reads the ranks of the layers that this model has.
        """
        record: dict[str, Any] = {}
        for name, layer in _candidates(model).items():
            if _choice_of(name) not in choices or _why_whole(model, name):
                continue
            full = full_rank(layer)
            rank = max(1, round(choices.number(_choice_of(name), 1.0) * full))
            if rank <= saving_rank(layer):
                record[name] = {"rank": rank, "full": full}
                model.set_submodule(name, factorized(layer, rank))
        if record:
            context.structure[self.name] = {"method": choices.text(METHOD, SVD), "layers": record}
        return model

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Make the recorded layers anew; their weights come with the checkpoint."""
        record, layers = context.structure.get(self.name, {"layers": {}}), _candidates(model)
        for name, made in record["layers"].items():
            model.set_submodule(name, Factors(*_pair(layers[name], made["rank"])))
        return model


class Factors(nn.Sequential):
    """The two layers that stand in the place of one."""


def origin(model: nn.Module, layer: str) -> str:
    """The layer of the uncompressed network that `layer` is a factor of; itself where it is none."""
    whole = layer.rpartition(".")[0]
    return whole if isinstance(model.get_submodule(whole), Factors) else layer


def factorized(layer: Layer, rank: int) -> Factors:
    """The two layers whose product is nearest to `layer` among all of this rank; at full rank they equal it.

    Singular values are shared evenly between the two, so that their weights train at the same pace.
    """
    inner, outer = _pair(layer, rank)
    first, second = _halves(as_matrix(layer).detach().double(), rank)
    if _is_spatial(layer):  # rows of the matrix are (output, column)
        second = second.reshape(layer.weight.shape[0], layer.weight.shape[3], rank).permute(0, 2, 1)
    with torch.no_grad():
        inner.weight.copy_(first.reshape(inner.weight.shape))
        outer.weight.copy_(second.reshape(outer.weight.shape))
        if layer.bias is not None and outer.bias is not None:
            outer.bias.copy_(layer.bias)
    return Factors(inner, outer).train(layer.training)


def _halves(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rank, columns) and (rows, rank) of a matrix; the second times the first is nearest to it.

    By the eigenvectors of the smaller of its two Gram matrices: for 768 × 3072 that is seven times faster than a
    decomposition of the matrix itself.
    """
    if matrix.shape[0] > matrix.shape[1]:
        first, second = _halves(matrix.T, rank)
        return second.T, first.T
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    root, left = squares[-rank:].clamp_min(1e-24) ** 0.25, vectors[:, -rank:]
    return (left.T @ matrix) / root[:, None], left * root


def as_matrix(layer: Layer) -> torch.Tensor:
    """The weight as the matrix that is decomposed: (outputs, inputs × kernel), or for a convolution with two kernel
    axes (outputs × columns, inputs × rows)."""
    weight = layer.weight
    if _is_spatial(layer):
        outputs, inputs, height, width = weight.shape
        return weight.permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)
    return weight.reshape(weight.shape[0], -1)


def full_rank(layer: Layer) -> int:
    """The rank at which nothing is lost."""
    return min(as_matrix(layer).shape)


def saving_rank(layer: Layer) -> int:
    """The highest rank at which the two layers have fewer parameters; 0 where there is none."""
    rows, columns = as_matrix(layer).shape
    return (rows * columns - 1) // (rows + columns)


def _pair(layer: Layer, rank: int) -> tuple[Layer, Layer]:
    """The two layers, with weights yet to be set."""
    if isinstance(layer, nn.Linear):
        return (
            _like(layer, in_features=layer.in_features, out_features=rank, bias=False),
            _like(layer, in_features=rank, out_features=layer.out_features),
        )
    first, second = _moves(layer)
    return (
        _like(layer, in_channels=layer.in_channels, out_channels=rank, bias=False, **first),
        _like(layer, in_channels=rank, out_channels=layer.out_channels, **second),
    )


def _like(layer: Layer, *, bias: bool = True, **sizes: Any) -> Layer:
    """A layer of the same class with these sizes; it is frozen where `layer` is, and has a bias only if that has."""
    if not isinstance(layer, nn.Linear):
        sizes["padding_mode"] = layer.padding_mode
    bias = bias and layer.bias is not None
    made = type(layer)(**sizes, bias=bias, device=layer.weight.device, dtype=layer.weight.dtype)
    made.weight.requires_grad_(layer.weight.requires_grad)
    if made.bias is not None and layer.bias is not None:
        made.bias.requires_grad_(layer.bias.requires_grad)
    return made


def _moves(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[dict[str, Any], dict[str, Any]]:
    """Kernel, stride, padding and dilation of the two: an axis each, or all in the first and 1×1 in the second."""
    once = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    own = {name: getattr(layer, name) for name in once}
    if not _is_spatial(layer):
        return own, once
    return (
        {name: _along(own[name], 0, once[name]) for name in once},
        {name: _along(own[name], 1, once[name]) for name in once},
    )


def _along(value: Any, axis: int, elsewhere: int) -> Any:
    """What a convolution does along one of its two axes, with nothing done along the other; `same` stays `same`."""
    if isinstance(value, str):
        return value
    return (value[0], elsewhere) if axis == 0 else (elsewhere, value[1])


def _is_spatial(layer: Layer) -> bool:
    return isinstance(layer, nn.Conv2d) and min(layer.kernel_size) > 1


def _candidates(model: nn.Module) -> dict[str, Layer]:
    return {name: module for name, module in model.named_modules() if name and isinstance(module, LAYERS)}


def _why_whole(model: nn.Module, layer: str) -> str:
    """Why a layer cannot be replaced by two; empty where it can."""
    module = _candidates(model)[layer]
    if type(module) not in LAYERS:
        return f"{type(module).__name__} may do more than its base class"
    if parametrize.is_parametrized(module):
        return "its weight is computed in each call (a parametrization)"
    if getattr(module, "groups", 1) > 1:
        return "a grouped convolution is thin already"
    if _counted(model)[id(module.weight)] > 1:
        return "its weight is shared with another layer"
    return "" if saving_rank(module) else "no rank has fewer parameters"


def _counted(model: nn.Module) -> Counter[int]:
    """In how many places each parameter stands."""
    return Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))


@torch.no_grad()
def _read_past(model: nn.Module, layers: list[str], example: Any) -> set[str]:
    """The layers of which the network reads attributes, which two layers in their place would not have.

    It is run with the layers inside of an `nn.Sequential`: all at once, and one by one only where that fails.
    """
    if not layers or _runs(model, layers, example):
        return set()
    return {layer for layer in layers if not _runs(model, [layer], example)}


def _runs(model: nn.Module, layers: list[str], example: Any) -> bool:
    """Whether the network, in eval mode, runs with these layers wrapped; it is left as it was."""
    whole = {layer: model.get_submodule(layer) for layer in layers}
    try:
        for layer, module in whole.items():
            model.set_submodule(layer, nn.Sequential(module))
        call(model, example)
    except Exception:  # whatever a network does with a layer that lacks what it looks for
        return False
    finally:
        for layer, module in whole.items():
            model.set_submodule(layer, module)
    return True


def _described(name: str, layer: Layer, reason: str) -> dict[str, Any]:
    full = full_rank(layer)
    return {"name": name, "full_rank": full, "saves_to": saving_rank(layer) / full, "reason": reason}


def _choice_of(layer: str) -> str:
    return f"factorize.{layer}.rank"
