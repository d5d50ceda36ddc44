"""Parts of a network that training leaves as they are: embeddings, a pretrained backbone."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from autoprune.references import nearest


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Have training leave alone every parameter that a pattern names; those without gradients are frozen anyway.

    Args:
        model: changed in place.
        patterns: names of parameters or of modules around them, with `*` and `?`: `embeddings`, `layer[0-3].*`.
    """
    for name, parameter in model.named_parameters():
        if any(_is_named(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def _is_named(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))


def unmatched(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """One line for each pattern that names no parameter of the network."""
    names = [name for name, _ in model.named_parameters()]
    modules = [name for name, _ in model.named_modules() if name]
    return [
        f"train.freeze: {pattern!r} names no layer of the model{nearest(pattern, modules)}"
        for pattern in patterns
        if not any(_is_named(name, pattern) for name in names)
    ]


def rest(model: nn.Module) -> None:
    """Put layers whose parameters are all frozen into eval mode where they would gather statistics.

    A BatchNorm layer whose weights stay but whose averages move is not frozen.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
