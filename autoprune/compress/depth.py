"""Depth: whole blocks that give what they take, dropped from a row of their like.

A residual network is a row of small corrections, and some of them are hardly missed. Dropping a block saves all
of its time in every runtime, which narrowing it does not. It needs no graph: a block is found by running the
network once and looking at what goes in and what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.compress.technique import Context, Technique
from autoprune.errors import RunFolderError
from autoprune.space import Choice, Choices, Range
from autoprune.task import example_inputs
from autoprune.tensors import call, tensors_in

if TYPE_CHECKING:
    from autoprune.targets import Target

INFLUENCE_BATCH_SIZE, INFLUENCE_BATCHES = 16, 4
Place = int | str
"""An argument of a call: its position, or its name."""


@dataclass(frozen=True)
class Block:
    """A module of a row of modules of one class.

    Attributes:
        name: its path.
        row: the path of the module that holds the row.
        kind: the class.
        given: where the tensor that goes through it is among its arguments.
        returned: None when it returns that tensor alone; else for each part of the tuple that it returns, the
            argument that it is, or None for a part that is None.
        reason: why it cannot be dropped; empty when it can.
    """

    name: str
    row: str
    kind: str
    given: Place = 0
    returned: tuple[Place | None, ...] | None = None
    reason: str = ""


class Dropped(nn.Module):
    """What stands where a block was: gives what it takes, in the form in which the block returned it.

    Args:
        given, returned: see `Block`.
        attributes: plain values that the network around it may look up (`attention_type`).
    """

    def __init__(
        self, given: Place, returned: Sequence[Place | None] | None, attributes: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.given, self.returned = given, returned
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *positional: Any, **named: Any) -> Any:
        """The tensor given, alone or among the parts that were passed through."""
        arguments = _by_place(positional, named)
        if self.returned is None:
            return arguments[self.given]
        return tuple(None if place is None else arguments[place] for place in self.returned)


def _by_place(positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[Place, Any]:
    arguments: dict[Place, Any] = dict(enumerate(positional))
    arguments.update(named.items())
    return arguments


class Depth(Technique):
    """Choose how many blocks of each row are dropped; those go that change the least of what goes through them.

    The change is one minus the cosine between what a block takes and what it gives, averaged over training
    examples: the block influence of Men et al., "ShortGPT", 2024, https://arxiv.org/abs/2403.03853.

    Args:
        blocks: patterns of block names that may be dropped; empty means all.
        most: the largest share of a row that may be dropped, from 0 to 1.
    """

    name = "depth"

    def __init__(self, blocks: tuple[str, ...] = (), most: float = 0.5) -> None:
        self.patterns, self.most = tuple(blocks), most

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """`depth.<row>.drop`: how many blocks of the row go. A row of which none may go has no choice."""
        rows = _rows(self.blocks(model, example))
        most = {row: self._most(blocks) for row, blocks in rows.items()}
        return {_choice_of(row): Range(0, count, neutral=0, step=1) for row, count in most.items() if count}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """`blocks`: name, row, class, and the reason why one stays (empty when it may go)."""
        return {
            "blocks": [
                {"name": block.name, "row": block.row, "kind": block.kind, "reason": block.reason}
                for block in self.blocks(model, example)
            ]
        }

    def blocks(self, model: nn.Module, example: Any) -> list[Block]:
        """Every block of every row; those that the spec does not name stay for that reason."""
        return [
            replace(block, reason="not included by the spec")
            if not block.reason
            and self.patterns
            and not any(fnmatchcase(block.name, p) for p in self.patterns)
            else block
            for block in find_blocks(model, example)
        ]

    def _most(self, row: Sequence[Block]) -> int:
        return min(int(self.most * len(row) + 1e-9), sum(not block.reason for block in row))

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Drop what was chosen; rows within dropped blocks are gone with them, and their choices unread."""
        rows: dict[str, list[Block]] | None = None
        dropped: dict[str, Any] = {}
        for name in sorted((n for n in choices if n.startswith("depth.")), key=lambda n: n.count(".")):
            row = name.removeprefix("depth.").removesuffix("drop").removesuffix(".")
            if any(f"{row}.".startswith(f"{gone}.") for gone in dropped):
                continue
            if count := int(choices.number(name, 0)):
                rows = rows or _rows(self.blocks(model, example_inputs(context.data)))
                dropped.update(self._least(model, rows.get(row, []), count, context))
        if dropped:
            context.structure[self.name] = {"dropped": dropped}
        return drop_blocks(model, dropped)

    def _least(
        self, model: nn.Module, row: Sequence[Block], count: int, context: Context
    ) -> dict[str, dict[str, Any]]:
        """The `count` blocks of a row that may go and change the least, as plain data."""
        free = [block for block in row if not block.reason]
        influence = influences(model, free, context)
        free.sort(key=lambda block: influence[block.name])
        return {block.name: _plain(block) for block in free[: min(count, self._most(row))]}

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Drop the same blocks."""
        return drop_blocks(model, context.structure.get(self.name, {}).get("dropped", {}))


def drop_blocks(model: nn.Module, dropped: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """Put a `Dropped` where each block was, in place.

    Args:
        model: the network.
        dropped: block -> `given` and `returned`, as `context.structure["depth"]["dropped"]` has them.

    Raises:
        RunFolderError: the network has no such block.
    """
    paths = dict(model.named_modules())
    for name, how in dropped.items():
        if name not in paths:
            raise RunFolderError(f"the network has no block {name[:80]!r} to drop: it is another one")
        _replace(model, name, Dropped(how["given"], how["returned"], _attributes(paths[name])))
    return model


def find_blocks(model: nn.Module, example: Any) -> list[Block]:
    """The blocks of every row: modules with modules of their own, of one class, under one parent.

    Each that gives what it takes is dropped once, and the network without it must give outputs of the same shapes.
    """
    rows = [row for row in _siblings(model) if len(row) > 1]
    names = [name for row in rows for name in row]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            calls, shapes = _recorded(model, names, example)
            found = [_block(model, name, calls.get(name, [])) for name in names]
            return [block if block.reason else _tried(model, block, example, shapes) for block in found]
    finally:
        model.train(was_training)


def _siblings(model: nn.Module) -> Iterator[list[str]]:
    """Under each module, the paths of its children by class, of those that have children."""
    for path, module in model.named_modules():
        by_class: dict[type, list[str]] = {}
        for name, child in module.named_children():
            if next(child.children(), None) is not None and next(child.parameters(), None) is not None:
                by_class.setdefault(type(child), []).append(f"{path}.{name}" if path else name)
        yield from by_class.values()


@dataclass(frozen=True)
class _Call:
    """One call of a module: its arguments by place, and what it returned."""

    arguments: dict[Place, Any]
    outputs: Any


@contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[_Call]]]:
    """The calls of these modules while the context lasts."""
    calls: dict[str, list[_Call]] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
            calls.setdefault(name, []).append(_Call(_by_place(args, kwargs), outputs))

        return model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)

    hooks = [watch(name) for name in names]
    try:
        yield calls
    finally:
        for each in hooks:
            each.remove()


def _recorded(
    model: nn.Module, names: Sequence[str], example: Any
) -> tuple[dict[str, list[_Call]], list[torch.Size]]:
    with _watched(model, names) as calls:
        outputs = call(model, example)
    return calls, [tensor.shape for tensor in tensors_in(outputs)]


def _block(model: nn.Module, name: str, calls: Sequence[_Call]) -> Block:
    """What one run says of a block."""
    row, kind = name.rpartition(".")[0], type(model.get_submodule(name)).__name__
    if len(calls) != 1:
        return Block(name, row, kind, reason=f"called {len(calls)} times in one run, expected once")
    arguments, outputs = calls[0].arguments, calls[0].outputs
    given = next((place for place, value in arguments.items() if isinstance(value, torch.Tensor)), None)
    parts = outputs if type(outputs) is tuple else (outputs,)
    if given is None or not parts or not isinstance(parts[0], torch.Tensor):
        return Block(name, row, kind, reason="it does not take and return a tensor")
    took, gave = tuple(arguments[given].shape), tuple(parts[0].shape)
    if took != gave or arguments[given].dtype != parts[0].dtype:
        return Block(name, row, kind, reason=f"it takes shape {took} and gives {gave}")
    rest = [_origin(part, arguments) for part in parts[1:]]
    if unknown := [place for place, (_, is_known) in enumerate(rest, 1) if not is_known]:
        return Block(name, row, kind, reason=f"part {unknown[0]} of what it returns is made by it alone")
    returned = (given, *(place for place, _ in rest)) if type(outputs) is tuple else None
    return Block(name, row, kind, given, returned)


def _origin(part: Any, arguments: Mapping[Place, Any]) -> tuple[Place | None, bool]:
    """The argument that a part of the outputs is (None for nothing), and whether it is one."""
    if part is None:
        return None, True
    places = [place for place, value in arguments.items() if value is part]
    return (places[0], True) if places else (None, False)


def _tried(model: nn.Module, block: Block, example: Any, shapes: list[torch.Size]) -> Block:
    """The block, with a reason to stay if the network does not run without it as it did with it."""
    module = model.get_submodule(block.name)
    _replace(model, block.name, Dropped(block.given, block.returned, _attributes(module)))
    try:
        found = [tensor.shape for tensor in tensors_in(call(model, example))]
    except Exception as error:  # whatever a user's forward raises without its block
        return replace(block, reason=f"without it the model raises {type(error).__name__}: {error}"[:200])
    finally:
        _replace(model, block.name, module)
    return block if found == shapes else replace(block, reason="without it the outputs have other shapes")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    module.train(model.training)
    model.get_submodule(parent)._modules[child] = module


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Plain values that a module holds, its mode excepted."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_") and name != "training"
        if name not in ("given", "returned")
    }


@torch.no_grad()
def influences(model: nn.Module, blocks: Sequence[Block], context: Context) -> dict[str, float]:
    """By block name: how much of what goes through a block it turns, from 0 (nothing) to 2."""
    sums = {block.name: 0.0 for block in blocks}
    batches = context.data.train.batches(INFLUENCE_BATCH_SIZE, shuffle=context.seed)
    model.eval()
    for batch in islice(batches, INFLUENCE_BATCHES):
        with _watched(model, list(sums)) as calls:
            call(model, batch.inputs)
        for block in blocks:
            seen = calls[block.name][0]
            took = seen.arguments[block.given].flatten(1).float()
            gave = (seen.outputs if block.returned is None else seen.outputs[0]).flatten(1).float()
            sums[block.name] += float(1 - torch.cosine_similarity(took, gave).mean())
    return sums


def _rows(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    rows: dict[str, list[Block]] = {}
    for block in blocks:
        rows.setdefault(block.row, []).append(block)
    return rows


def _choice_of(row: str) -> str:
    return f"depth.{row}.drop" if row else "depth.drop"


def _plain(block: Block) -> dict[str, Any]:
    returned = None if block.returned is None else list(block.returned)
    return {"kind": block.kind, "given": block.given, "returned": returned}
