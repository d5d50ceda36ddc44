"""Multiply-accumulates of one inference, in whatever operation they happen, in all and by module.

PyTorch counts the operations that it knows (`torch.utils.flop_counter`); what a CPU runs instead of them, and products
with vectors, are added here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.tensors import Inputs, call

_aten = torch.ops.aten
Shape = tuple[int, ...]


@torch.no_grad()
def multiplications(model: nn.Module, example: Inputs) -> tuple[int, dict[str, int]]:
    """Of one inference: in all, and by path of every module, what is called inside of it included.

    Args:
        model: float or deployed; not changed.
        example: inputs of batch size 1.
    """
    was_training = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(
            False
        )  # the counter waits for gradients of parameters that modules are called with
    try:
        with FlopCounterMode(display=False, custom_mapping=_CPU) as counter:
            call(model, example)
    finally:
        for module, training in was_training.items():
            module.training = training
        for parameter in trained:
            parameter.requires_grad_(True)
    root = f"{type(model).__name__}."
    counts = counter.get_flop_counts()
    by_module = {
        name.removeprefix(root): sum(operations.values()) // 2
        for name, operations in counts.items()
        if name.startswith(root)
    }
    return counter.get_total_flops() // 2, by_module


# Operations count as two for each multiply-accumulate, as in PyTorch; of tensors, their shapes are given.


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    # Heads of keys that several heads of queries share are multiplied with each of these.
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrence(inputs: Shape, from_input: Shape, from_state: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(inputs[:-1]) * (math.prod(from_input) + math.prod(from_state))


def _product(matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _product_and_sum(_added: Shape, matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _trilinear(first: Shape, second: Shape, *_: Any, **__: Any) -> int:
    # As nn.Bilinear calls it: of (batch, in1), (out, in1, in2) and (batch, in2).
    batch, outputs, (one, other) = first[0], second[0], second[1:]
    return 2 * batch * outputs * (one * other + other)


_CPU: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten.mkldnn_rnn_layer: _recurrence,
    _aten.mv: _product,
    _aten.addmv: _product_and_sum,
    _aten.dot: _product,
    _aten.vdot: _product,
    _aten._trilinear: _trilinear,
}
