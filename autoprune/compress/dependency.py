"""torch-pruning's dependency graph: which cut in one layer forces which cuts in others.

The graph (Fang et al. 2023, "DepGraph", https://arxiv.org/abs/2301.12900) follows a channel through the
autograd graph of one forward pass. Only `dependency`, `cut` and `groups` know torch-pruning; the rest of
autoprune sees groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from autoprune.errors import ModelError

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
BATCH_NORMS = nn.modules.batchnorm._BatchNorm


@contextmanager
def traced(model: nn.Module, example: torch.Tensor) -> Iterator[Any]:
    """torch-pruning's dependency graph of `model`; valid only inside the `with`.

    Raises:
        ModelError: the model cannot be traced; the message names the layer where its forward pass fails.
    """
    with gradients_everywhere(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Without forward_fn torch-pruning tries model(*example): an image without its batch axis.
            graph = tp.DependencyGraph().build_dependency(
                model, example, forward_fn=_forward, output_transform=_differentiable, verbose=False
            )
        except Exception as error:
            raise ModelError(
                f"the model cannot be traced for pruning, {_where_it_fails(model, example)}: "
                f"{type(error).__name__}: {error}; architecture, distillation and bits can still be searched: "
                "leave 'prune' out of the space"
            ) from error
        yield graph


def _forward(model: nn.Module, inputs: torch.Tensor) -> Any:
    return model(inputs)


def _differentiable(outputs: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(outputs) if tensor.grad_fn is not None]


def _where_it_fails(model: nn.Module, example: torch.Tensor) -> str:
    """The innermost layer that was entered when the forward pass raised, in words."""
    entered = ["its own forward"]
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(f"layer {name!r}"))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(example)
    except Exception:
        return f"its forward pass fails at or after {entered[-1]}"
    finally:
        for hook in hooks:
            hook.remove()
    return "although it runs"


@contextmanager
def gradients_everywhere(model: nn.Module) -> Iterator[None]:
    """Let gradients reach every floating parameter, and leave each parameter's flag as it was (by name)."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags.get(name, True))  # a tied one that was parted has a new name


def group_of(graph: Any, layer: nn.Module, channels: Iterable[int]) -> Any:
    """All cuts, in all layers, that cutting these output channels of `layer` forces."""
    pruner = graph.get_pruner_of_module(layer)
    return graph.get_pruning_group(layer, pruner.prune_out_channels, list(channels))


def cuts_outputs_of(graph: Any, dep: Any, kinds: Any) -> bool:
    """Whether `dep` is a cut of the output channels of a module of these kinds."""
    return isinstance(dep.target.module, kinds) and graph.is_out_channel_pruning_fn(dep.handler)


def tensors_in(outputs: Any) -> list[torch.Tensor]:
    """All tensors in nested outputs, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    parts = outputs if isinstance(outputs, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Dotted name and module of every convolution and linear layer, in module order."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)]


def width_of(layer: Any) -> int:
    """Output channels of a convolution or linear layer."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def depth_of(layer: Any) -> int:
    """Input channels of a convolution or linear layer."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
