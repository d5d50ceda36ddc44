"""What a network does that a search cannot live with, each found by running it and said in one sentence.

A candidate is a copy, its outputs are compared with others', and it is run thousands of times: a network that draws
random numbers, changes itself or its inputs, or depends on the size of a batch would spoil results without a word.
"""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from autoprune.errors import raised
from autoprune.tensors import Inputs, batch_size, call, map_tensors, rows, tensors_in

RELATIVE, ABSOLUTE = 1e-5, 1e-6


class Problem(NamedTuple):
    """A sentence about a model: an `error` is refused, a `warning` is only said."""

    severity: Literal["error", "warning"]
    sentence: str


def model_problems(model: nn.Module, inputs: Inputs) -> list[Problem]:
    """What is wrong with a model, as far as three forward passes tell; empty when nothing is.

    Args:
        model: left as it is: a copy is run, in eval mode on the CPU.
        inputs: of any batch size, in the form that the network takes.
    """
    make_copyable(model)
    problems = [*_parameter_problems(model), *_function_problems(model)]
    if any(problem.severity == "error" for problem in problems):
        return problems
    if reason := _argument_problem(model, inputs):
        return [*problems, _error(reason)]
    try:
        tried = copy.deepcopy(model).cpu().eval()
    except Exception as error:
        return [*problems, _error(_uncopyable(model, error))]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), redirect_stdout(io.StringIO()) as printed:
            problems += _running_problems(tried, inputs)
    except Exception as error:  # whatever a stranger's network raises is the finding
        return [*problems, _error(_raised(error, inputs))]
    if lines := printed.getvalue().strip().splitlines():
        said = f"the model prints while it runs ({lines[0]:.60}): remove print() from its forward()"
        problems.append(Problem("warning", said))
    return problems


def make_copyable(model: nn.Module) -> None:
    """Let go of the gradients behind weights that torch's older `weight_norm` and `spectral_norm` compute.

    They are computed anew before each forward pass, so nothing is lost; but a tensor with a history cannot be copied.
    """
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            name = str(getattr(hook, "name", ""))
            value = vars(module).get(name)
            if isinstance(value, torch.Tensor):
                vars(module)[name] = value.detach()


def _error(sentence: str) -> Problem:
    return Problem("error", sentence)


def _parameter_problems(model: nn.Module) -> Iterator[Problem]:
    parameters = dict(model.named_parameters())
    if not parameters:
        yield _error("the model has no parameters: there is nothing to compress")
    lazy = [
        name for name, value in parameters.items() if isinstance(value, nn.parameter.UninitializedParameter)
    ]
    if lazy:
        yield _error(
            f"the model has parameters without a shape ({lazy[0]}): run it once on an example where it is made"
        )


# -- what cannot be copied -------------------------------------------------------------------------------------------


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What modules hold besides tensors and other modules, with its name."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield f"{path}.{name}".lstrip("."), value


def _function_problems(model: nn.Module) -> Iterator[Problem]:
    for where, value in _attributes(model):
        if not inspect.isfunction(value) or "<l" not in value.__qualname__:  # neither <lambda> nor <locals>
            continue
        kind = "a lambda" if "<lambda>" in value.__qualname__ else "a function made in another"
        if _refers_to_network(value):
            yield _error(
                f"the model holds {kind} that uses its own layers, {where}: copies of the model would still run the "
                "weights of the first; make it a method"
            )
        else:
            yield Problem(
                "warning",
                f"the model holds {kind}, {where}, so it cannot be pickled: make it a method, a function of the "
                "module, or an nn.Module",
            )


def _refers_to_network(function: Callable[..., Any]) -> bool:
    defaults = list(function.__defaults__ or ()) + list((function.__kwdefaults__ or {}).values())
    captured = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    return any(isinstance(value, nn.Module | torch.Tensor) for value in captured + defaults)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (an empty cell raises)
    except ValueError:
        return False
    return True


def _uncopyable(model: nn.Module, error: Exception) -> str:
    """Which attribute is to blame for a model that cannot be copied."""
    where = ""
    for name, value in _attributes(model):
        try:
            copy.deepcopy(value)
        except Exception as found:
            where, error = f", {name}", found
            break
    return (
        f"the model holds something that cannot be copied{where} ({type(error).__name__}: {str(error)[:120]}): "
        "make it where it is used, or detach() it where it is a tensor"
    )


# -- what it is called with ------------------------------------------------------------------------------------------


def _argument_problem(model: nn.Module, inputs: Inputs) -> str:
    """Which argument of `forward` is missing or unknown; nothing where they fit."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # built in C: only calling it will tell
        return ""
    positional = (
        () if isinstance(inputs, Mapping) else tuple(inputs) if isinstance(inputs, tuple | list) else (0,)
    )
    named = inputs if isinstance(inputs, Mapping) else {}
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        given = ", ".join(map(str, named)) or f"{len(positional)} positional"
        return (
            f"the model's forward{signature} does not fit the inputs ({given}): {error}; inputs are a tensor, a tuple "
            "of positional arguments or a dict by name, and what they leave out needs a default"
        )
    return ""


def _raised(error: Exception, inputs: Inputs) -> str:
    text = str(error)
    if any(
        word in text for word in ("CUDA", "cuda", "NVIDIA", "Expected all tensors to be on the same device")
    ):
        return (
            f"the model moves itself or its inputs to another device ({text.splitlines()[0]:.80}): remove .cuda() and "
            ".to(device) from it, autoprune moves both"
        )
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
    return f"the model, on inputs of shape {shapes}, {raised(error)}"


# -- what running it does --------------------------------------------------------------------------------------------


def _running_problems(model: nn.Module, inputs: Inputs) -> list[Problem]:
    devices = {name: tensor.device for name, tensor in _state(model)}
    before = map_tensors(torch.clone, inputs)
    # The first pass may fill caches; what changes from then on changes for ever.
    first = call(model, map_tensors(torch.clone, inputs))
    moved = [name for name, tensor in _state(model) if tensor.device != devices.get(name, tensor.device)]
    if moved or any(tensor.device != torch.device("cpu") for tensor in tensors_in(first)):
        return [_error(_elsewhere(moved))]
    if not tensors_in(first):
        return [_error(f"the model returns {type(first).__name__} without a tensor in it: return tensors")]
    if any(module.training for module in model.modules()):
        return [_error("the model leaves eval mode when it runs: remove train() from its forward()")]
    state, given = _fingerprints(model), map_tensors(torch.clone, inputs)
    second = call(model, given)
    problems = []
    if changed := _changed(state, _fingerprints(model)):
        problems.append(
            f"the model changes its {changed} each time it runs in eval mode: write to it only `if self.training`"
        )
    if not _alike(before, given):
        problems.append(
            "the model changes its inputs in place: work on a copy (x = x.clone()), or leave out inplace=True"
        )
    if not _alike(first, second):
        problems.append(
            "the model gives different outputs for the same inputs in eval mode: remove the randomness "
            "(F.dropout needs training=self.training)"
        )
    found = [_error(sentence) for sentence in problems]
    return found or list(_batch_problems(model, inputs, first))


def _elsewhere(moved: list[str]) -> str:
    what = f"its {moved[0]}" if moved else "its outputs"
    return (
        f"the model moves {what} to another device: remove .cuda() and .to(device) from it, autoprune moves models and "
        "inputs"
    )


def _state(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _fingerprints(model: nn.Module) -> dict[str, str]:
    """What tells of a change, without a copy of a model that may fill half of the memory."""
    return {name: f"{tuple(tensor.shape)} {tensor.sum().item()}" for name, tensor in _state(model)}


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _alike(one: Any, other: Any) -> bool:
    ones, others = tensors_in(one), tensors_in(other)
    return len(ones) == len(others) and all(_close(a, b) for a, b in zip(ones, others, strict=True))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def _batch_problems(model: nn.Module, inputs: Inputs, outputs: Any) -> Iterator[Problem]:
    """How outputs depend on the size of the batch, other than along one axis; nothing where they do not."""
    count = batch_size(inputs)
    other = 1 if count > 1 else 2
    chosen = rows(inputs, slice(0, 1)) if count > 1 else map_tensors(_twice, inputs)
    try:
        again = call(model, chosen)
    except Exception as error:
        yield _error(
            f"the model runs on a batch of {count} but not on one of {other} (it {raised(error)}): take the batch size "
            "from the input (x.shape[0], or -1 in a view)"
        )
        return
    ones, others = tensors_in(outputs), tensors_in(again)
    if len(ones) != len(others):
        yield _error(
            f"the model gives {len(ones)} tensors for a batch of {count} and {len(others)} for one of {other}"
        )
        return
    shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(ones, others, strict=True)]
    odd = [pair for pair in shapes if not _differ_by_batch(*pair, count, other)]
    among = [pair for pair in odd if _compare_examples(*pair, count, other)]
    if among == odd and odd:
        yield Problem(
            "warning",
            f"the model gives outputs of shape {odd[0][0]} for a batch of {count} and of shape {odd[0][1]} for one of "
            f"{other}: they compare the examples of a batch with each other, so that a metric of them depends on how "
            "many there are",
        )
    elif odd:
        shape, another = next(pair for pair in odd if pair not in among)
        yield _error(
            f"the model gives outputs of shape {shape} for a batch of {count} and of shape {another} for one of "
            f"{other}: the first axis has to be the examples, and the others must not depend on them"
        )


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() else tensor


def _compare_examples(one: tuple[int, ...], other: tuple[int, ...], count: int, another: int) -> bool:
    """Whether two shapes are equal but for two axes that both hold the examples, the first among them."""
    if len(one) != len(other):
        return False
    differing = [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return len(differing) == 2 and all((one[i], other[i]) == (count, another) for i in (0, *differing))


def _differ_by_batch(one: tuple[int, ...], other: tuple[int, ...], count: int, another: int) -> bool:
    """Whether two shapes are equal but for one axis that holds the examples."""
    if len(one) != len(other):
        return False
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return all(a * another == b * count for a, b in differing) and len(differing) <= 1
