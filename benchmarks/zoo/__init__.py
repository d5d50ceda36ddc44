"""Our own model zoo: what the claim "any model" is measured on.

One file for each kind of input; in each file the networks, and a list of family, factory and example inputs. All of
them are small, have random weights and need no download. `model_zoo.py` beside this folder runs them; any of them can
also be looked at alone: `autoprune check benchmarks/zoo/convolutions.py:channel_shuffle`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

FILES = (
    "convolutions",
    "dense_prediction",
    "signals",
    "norms",
    "hazards",
    "sequences",
    "tabular",
    "attention",
    "language",
    "torchvision_models",
    "timm_models",
    "huggingface_encoders",
    "huggingface_decoders",
    "huggingface_vision",
    "huggingface_signals",
)


class Model(NamedTuple):
    """A network of the zoo.

    Attributes:
        name: `file:factory`.
        family: what it stands for, as in issue 3.
        build: gives the network, with random weights, in eval mode.
        inputs: gives example inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        is_transformer: whether it counts as one (attention and its replacements, whoever wrote it).
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    is_transformer: bool


TRANSFORMERS = ("attention", "language", "timm_models", "huggingface")
"""Files whose models are transformers, by the beginnings of their names."""


def models(pattern: str = "*") -> list[Model]:
    """The models whose name or family fits the pattern (as in a shell), in the order of the files."""
    from fnmatch import fnmatch

    found = []
    for file in FILES:
        for family, factory, inputs in importlib.import_module(f"{__name__}.{file}").MODELS:
            name = f"{file}:{factory.__name__}"
            if fnmatch(name, pattern) or fnmatch(family, pattern) or fnmatch(factory.__name__, pattern):
                found.append(Model(name, family, factory, inputs, file.startswith(TRANSFORMERS)))
    return found
