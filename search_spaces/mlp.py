"""A family of multi-layer perceptrons: linear layers with ReLU between them, for inputs of any shape.

The defaults are the uncompressed baseline; a spec searches the arguments under `space.architecture`.
"""

from __future__ import annotations

from torch import nn


def mlp(
    *, inputs: int = 784, hidden: int = 256, width: float = 1.0, depth: int = 3, classes: int = 10
) -> nn.Module:
    """A member of the family: logits `(N, classes)` of inputs that have `inputs` numbers each, in any shape.

    Args:
        inputs: numbers of an example.
        hidden: units of each hidden layer.
        width: multiplies them.
        depth: number of hidden layers, at least one; fewer are the first ones.
        classes: number of outputs.

    Raises:
        ValueError: no hidden layer, or no width.
    """
    if depth < 1 or width <= 0:
        raise ValueError(
            f"mlp: got depth={depth}, width={width}; expected at least one layer and a positive width"
        )
    units = max(1, round(hidden * width))
    layers = [nn.Sequential(nn.Linear(units if i else inputs, units), nn.ReLU()) for i in range(depth)]
    return nn.Sequential(nn.Flatten(), nn.Sequential(*layers), nn.Linear(units, classes))
