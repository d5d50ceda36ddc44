"""Configurations of transformers' models that follow a cut, so that the model loads again with its own library.

A configuration says how wide the layers of a model are. Which of its numbers say so, and how, is found out by asking
the model's own class: it is built without memory (torch's meta device) with one number changed at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.errors import ModelError, raised
from autoprune.tensors import Inputs, call, tensors_in

TOLERANCE = 1e-4
HINT = 1e-3

Shapes = Mapping[str, tuple[int, ...]]


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model has a configuration that its class can be built from, as transformers' models have."""
    return hasattr(model, "config") and hasattr(model, "save_pretrained") and hasattr(model.config, "to_dict")


def follow_config(model: Any, example: Inputs, dropped: Collection[str] = ()) -> dict[str, tuple[int, int]]:
    """Set the numbers of `model.config`, and those that its layers keep, to what the layers have become.

    Args:
        model: a model of transformers, of which units have been cut. Its tensors stay as they are.
        example: inputs, on which a model of the new configuration must give the same outputs.
        dropped: names of blocks in numbered rows that stand for nothing any more. They are taken out, and those behind
            them move up: their names change.

    Returns:
        name of a number -> what it was and what it is now.

    Raises:
        ModelError: no configuration describes the model: layers that share a number were cut differently, no number
            says how many blocks there are, or its class computes something else from a number (rotary frequencies from
            the width of a head). The configuration is then as it was.
    """
    before = copy.deepcopy(vars(model.config))
    try:
        counts = _close_rows(model, dropped) if dropped else {}
        return {**counts, **_follow_widths(model, example)}
    except ModelError:
        vars(model.config).update(before)
        raise


def _close_rows(model: Any, dropped: Collection[str]) -> dict[str, tuple[int, int]]:
    """Take blocks out of their rows, and set the numbers of the configuration that count what is left."""
    rows: dict[str, set[int]] = {}
    for name in dropped:
        row, _, place = name.rpartition(".")
        if not place.isdigit():
            raise ModelError(
                f"{type(model).__name__} cannot be stored without {name!r}: it is in no numbered row"
            )
        rows.setdefault(row, set()).add(int(place))
    lengths = set()
    for row, places in rows.items():
        held = model.get_submodule(row)._modules
        kept = [block for place, block in held.items() if int(place) not in places]
        _shorten_lists(model.config, len(held), places)
        held.clear()
        held.update({str(place): block for place, block in enumerate(kept)})
        lengths.add(len(kept))
    return _follow_counts(model, lengths)


def _shorten_lists(config: Any, length: int, places: Collection[int]) -> None:
    """Leave out what a configuration lists for the dropped blocks (`layer_types`)."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == length and not name.startswith("_"):
            setattr(config, name, [entry for place, entry in enumerate(value) if place not in places])
        elif _is_config(value):
            _shorten_lists(value, length, places)


def _follow_counts(model: Any, lengths: Collection[int]) -> dict[str, tuple[int, int]]:
    """Set those numbers to lengths of rows with which the model's class makes just the tensors that are there."""
    wanted, changes = set(model.state_dict()), {}
    for path, value in _numbers(model.config):
        if not (surplus := _surplus(model, {}, wanted)):
            break
        found = {count: _surplus(model, {path: count}, wanted) for count in lengths if count < value}
        count = min(found, key=lambda count: (found[count], count), default=value)
        if found.get(count, surplus) < surplus:
            _set(model.config, path, count)
            changes[path] = (value, count)
    if _surplus(model, {}, wanted):
        raise ModelError(
            f"{type(model.config).__name__} cannot describe the pruned model: no number in it says how many blocks of "
            "each row there are (leave out space.depth)"
        )
    return changes


def _surplus(model: Any, numbers: Mapping[str, int], wanted: Collection[str]) -> float:
    """How many names of tensors a model with these numbers has too many or too few; infinite where there is none."""
    try:
        return len(set(_made(model, numbers).state_dict()) ^ set(wanted))
    except ModelError:
        return math.inf


def _follow_widths(model: Any, example: Inputs) -> dict[str, tuple[int, int]]:
    """Set the numbers that say how wide layers are."""
    wanted, numbers = _shapes(model), dict(_numbers(model.config))
    equations = _Equations(model, numbers, wanted)
    reason = ""
    for solution in equations.solutions():
        changes = {path: (numbers[path], new) for path, new in solution.items() if new != numbers[path]}
        made = _made(model, {path: new for path, (_, new) in changes.items()})
        reason = _difference(wanted, _shapes(made))
        if not reason:
            _check_same(model, {path: new for path, (_, new) in changes.items()}, example)
            for path, (_, new) in changes.items():
                _set(model.config, path, new)
            _follow_attributes(model, made)
            return changes
    raise ModelError(
        f"{type(model.config).__name__} cannot describe the pruned model: {reason}; tie the layers that share a number "
        "(prune: tie: ['*.pattern'])"
    )


def _difference(wanted: Shapes, made: Shapes) -> str:
    wrong = next((name for name, shape in wanted.items() if made.get(name) != shape), None)
    return f"{wrong} is {wanted[wrong]}, one of that configuration has {made.get(wrong)}" if wrong else ""


def _check_same(model: Any, numbers: Mapping[str, int], example: Inputs) -> None:
    """Refuse numbers with which the model's own class makes another function of the same tensors."""
    config = copy.deepcopy(model.config)
    for path, value in numbers.items():
        _set(config, path, value)
    again = type(model)(config).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        ours, theirs = (tensors_in(call(network, example)) for network in (model.eval(), again))
    far = max(
        (a - b).abs().max().item() / max(a.abs().max().item(), 1e-6)
        for a, b in zip(ours, theirs, strict=True)
    )
    if not far <= TOLERANCE:
        raise ModelError(
            f"{type(model).__name__} with {', '.join(f'{n}={v}' for n, v in numbers.items())} computes something else "
            f"(outputs differ by {far:.1g}): keep whole what it derives from them (prune: exclude: ['*.head_dim*'])"
        )


def _follow_attributes(model: nn.Module, made: nn.Module) -> None:
    """Give every module the whole numbers that the same module has when it is made from the configuration."""
    others = dict(made.named_modules())
    for path, module in model.named_modules():
        for name, value in vars(others[path]).items() if path in others else ():
            if type(value) is int and type(vars(module).get(name)) is int:
                setattr(module, name, value)


class _Equations:
    """What the shapes say about the numbers: products of powers, so linear equations in logarithms."""

    def __init__(self, model: Any, numbers: Mapping[str, int], wanted: Shapes) -> None:
        base = _shapes(_made(model, {}))
        self.numbers = numbers
        columns = {path: _exponents(model, path, value, base) for path, value in numbers.items()}
        self.paths = [path for path, column in columns.items() if column]
        rows = sorted({place for column in columns.values() for place in column})
        places = [place for place in rows if len(wanted.get(place[0], ())) > place[1]]
        self.left = np.array([[columns[path].get(place, 0.0) for path in self.paths] for place in places])
        self.right = np.array([math.log(wanted[n][i] / base[n][i]) for n, i in places])
        self.attributes = _attributes(model, self.paths)

    def solutions(self) -> Iterator[dict[str, int]]:
        """Values of the numbers: with what modules keep under the same names as a hint, and without."""
        for hints in (self.attributes, {}):
            if self.paths:
                yield self._solution(hints)

    def _solution(self, hints: Mapping[str, int]) -> dict[str, int]:
        """The least squares, in which shapes count for so much more that hints only decide what shapes leave open."""
        extra = np.array([[HINT * (path == other) for other in self.paths] for path in hints])
        given = [HINT * math.log(value / self.numbers[path]) for path, value in hints.items()]
        left = np.vstack([self.left, extra]) if len(extra) else self.left
        found = np.linalg.lstsq(left, np.concatenate([self.right, given]), rcond=None)[0]
        return {
            path: max(1, round(self.numbers[path] * math.exp(x)))
            for path, x in zip(self.paths, found, strict=True)
        }


def _attributes(model: nn.Module, paths: Sequence[str]) -> dict[str, int]:
    """Values that all modules agree on of attributes named as a number of the configuration."""
    found: dict[str, set[int]] = {}
    for module in model.modules():
        for path in paths:
            value = vars(module).get(path.rpartition(".")[2])
            if type(value) is int:
                found.setdefault(path, set()).add(value)
    return {path: values.pop() for path, values in found.items() if len(values) == 1}


def _exponents(model: Any, path: str, value: int, base: Shapes) -> dict[tuple[str, int], float]:
    """(tensor, axis) -> the power with which its size grows with a number."""
    try:
        doubled = _shapes(_made(model, {path: 2 * value}))
    except ModelError:
        return {}
    if doubled.keys() != base.keys():  # it counts layers
        return {}
    return {
        (name, i): math.log2(after / before)
        for name, shape in base.items()
        for i, (before, after) in enumerate(zip(shape, doubled[name], strict=True))
        if after != before
    }


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted names and values of the whole numbers in a configuration and in those inside it."""
    for name, value in list(vars(config).items()):
        if name.startswith("_"):
            continue
        if type(value) is int and value > 1:
            yield prefix + name, value
        elif _is_config(value):
            yield from _numbers(value, f"{prefix}{name}.")


def _is_config(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "__dict__")


def _set(config: Any, path: str, value: int) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        config = getattr(config, owner)
    setattr(config, name, value)


def _made(model: Any, numbers: Mapping[str, int]) -> nn.Module:
    """A model of the same class, without memory, with these numbers changed.

    Raises:
        ModelError: its class refuses them.
    """
    config = copy.deepcopy(model.config)
    for path, value in numbers.items():
        _set(config, path, value)
    try:
        with torch.device("meta"):
            made: nn.Module = type(model)(config)
    except Exception as error:  # whatever the class says of numbers that do not go together
        name = type(model).__name__
        raise ModelError(f"{name} cannot be built from its configuration: it {raised(error)}") from error
    return made
