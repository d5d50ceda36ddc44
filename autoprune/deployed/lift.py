"""Any network as a graph: known layers stay layers, everything else becomes ATen operations.

`fx.symbolic_trace` follows Python, and gives up where a forward looks at its inputs' sizes, takes keyword
arguments or returns a dataclass: most transformers. `torch.export` follows the tensors instead, but dissolves the
layers. Here an operation of our own stands in for each layer while it looks (`lifting`), and is replaced by a call of
the layer afterwards (`rewrite`): layers keep their names, their parameters, and what training means to them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import transformer

from autoprune.deployed.lifting import Flat, Lifting
from autoprune.deployed.rewrite import can_replace_mutations, mutates, rewritten
from autoprune.errors import ModelError
from autoprune.tensors import (
    Inputs,
    batch_size,
    call,
    concatenate,
    in_eval_mode,
    map_tensors,
    rows,
    tensors_in,
)

# How far the graph's outputs may be from the network's, relative to their largest value: other kernels round otherwise.
_TOLERANCE = 1e-3
# Of the configurations of transformers' networks, while they are looked through.
_SETTINGS = {"use_cache": False, "_experts_implementation": "batched_mm"}


def lift(model: nn.Module, example: Inputs, *, settle: bool = True) -> fx.GraphModule:
    """The network as a graph of layers (`call_module`, under their own names) and ATen functions.

    The graph shares parameters and buffers with `model`, under the same names; those that the forward does not read
    are left out, and tensors that it makes itself are buffers under `constants`. Weights that the forward computes
    from parameters alone are parameters of the graph's own (`computed`). It is in eval mode. In training its
    BatchNorm and Dropout layers do what they always do, but what the forward decides by `self.training` (and
    `F.dropout`) stays as in evaluation. It takes inputs as `model` does, of any batch size; the other sizes are those
    of the example, as plain numbers among the operations' arguments. It returns what `model` returns, but
    dataclasses as dicts.

    Args:
        model: any network; not changed.
        example: inputs of batch size 1.
        settle: compute such weights once; without, in each pass, and all parameters are those of `model`.

    Returns:
        the graph; `meta["static_batch"]` says whether it is bound to batch size 1, and each node's `meta["val"]`
        holds what flows there as a tensor without values.

    Raises:
        ModelError: the forward cannot be written as a graph; with the line that is in the way and the reason.
    """
    single = rows(example, slice(0, 1)) if tensors_in(example) else example
    with in_eval_mode(model), _as_a_function(model), _silence(), torch.no_grad():
        return _lifted(Lifting(model, settle), single)


def _lifted(lifting: Lifting, single: Inputs) -> fx.GraphModule:
    try:
        graph = _attempt(lifting, single, examples=2)
        _check_same(lifting.model, graph, concatenate([single] * 3))
        graph.meta["static_batch"] = False
        return graph
    except Exception:
        # Whatever is in the way of a batch of any size, what counts is the reason with a batch of one.
        pass
    try:
        graph = _attempt(lifting, single, examples=1)
        _check_same(lifting.model, graph, single)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_refusal(error)) from None
    graph.meta["static_batch"] = True
    return graph


def _attempt(lifting: Lifting, single: Inputs, examples: int) -> fx.GraphModule:
    """The graph, of any batch size with two examples: sizes of 1 count as constants when a program is exported."""
    with lifting.standing_in(), _plain_attention():
        program = _export(lifting, concatenate([single] * examples), dynamic=examples > 1)
    return rewritten(lifting, program, single).eval()


def _export(lifting: Lifting, inputs: Inputs, dynamic: bool) -> torch.export.ExportedProgram:
    tensors = tensors_in(inputs)
    size = batch_size(inputs)
    lifting.begin(inputs)
    batched = [dynamic and tensor.dim() > 0 and len(tensor) == size for tensor in tensors]
    shapes = tuple({0: torch.export.Dim.AUTO} if is_batched else None for is_batched in batched)
    dynamic_shapes = {"tensors": shapes} if any(batched) else None
    program: torch.export.ExportedProgram = torch.export.export(
        Flat(lifting), tuple(tensors), dynamic_shapes=dynamic_shapes, strict=False
    )
    if not any(mutates(node) for node in program.graph.nodes) or can_replace_mutations(program.graph):
        return program
    functional: torch.export.ExportedProgram = program.run_decompositions({})
    return functional


def _check_same(model: nn.Module, graph: fx.GraphModule, inputs: Inputs) -> None:
    """Refuse a graph that computes something else: the network is random, or keeps a state of its own."""
    expected = tensors_in(call(model, map_tensors(torch.clone, inputs)))
    found = tensors_in(call(graph, map_tensors(torch.clone, inputs)))
    for one, other in zip(expected, found, strict=True):
        a, b = torch.nan_to_num(one.double()), torch.nan_to_num(other.double())
        if a.shape != b.shape or bool(((a - b).abs() > _TOLERANCE * (1 + a.abs().max())).any()):
            raise ModelError(
                "the forward pass cannot be written as a graph: the graph gives other outputs than the model, which "
                "draws random numbers or keeps a state between calls"
            )


def _is_said_to_be_causal(_mask: Any, is_causal: bool | None = None, _size: Any = None) -> bool:
    return is_causal is True


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused kernels that torch.nn takes in evaluation only, nor its look into masks for one of them."""
    before = torch.backends.mha.get_fastpath_enabled()
    look = transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    vars(transformer)["_detect_is_causal_mask"] = _is_said_to_be_causal
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        vars(transformer)["_detect_is_causal_mask"] = look


@contextlib.contextmanager
def _as_a_function(model: nn.Module) -> Iterator[None]:
    """Networks of transformers without a cache beside their outputs, and without sorting tokens by expert."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [
        (config, name, getattr(config, name))
        for config in configs.values()
        for name in _SETTINGS
        if getattr(config, name, None) is not None
    ]
    for config, name, _ in before:
        setattr(config, name, _SETTINGS[name])
    try:
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without torch's reports on attempts that fail: the reason goes into the error."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _refusal(error: BaseException) -> str:
    """One sentence: the line of the model, and why it is in the way."""
    chain = _chain(error)
    own = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), "<")
    frames = [frame for e in reversed(chain) for frame in traceback.extract_tb(e.__traceback__)]
    lines = [frame for frame in frames if not frame.filename.startswith(own)]
    where = f" at {Path(lines[-1].filename).name}:{lines[-1].lineno} ({lines[-1].line})" if lines else ""
    if any(type(e).__name__ == "GuardOnDataDependentSymNode" for e in chain):
        return (
            f"the forward pass cannot be written as a graph{where}: what it does there depends on the values of the "
            "inputs, not on their shapes"
        )
    return f"the forward pass cannot be written as a graph{where}: it {_described(chain[-1])}"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that it was raised from, the first cause last."""
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None and earlier not in chain:
        chain.append(earlier)
    return chain


def _described(error: BaseException) -> str:
    lines: list[Any] = str(error).strip().splitlines() or ["no reason given"]
    return f"raises {type(error).__name__}: {lines[0]}"
