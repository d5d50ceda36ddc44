"""The head of a network: the layers that its outputs come from, found by following these back, and made anew.

A name says nothing about where a layer stands (`fc`, `classifier.3`, `score`, `conv_1_1`). What was computed last
does: a network is run once with gradients recorded, and from its outputs one goes back until layers are met.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune.deployed.deploy import replace
from autoprune.deployed.kinds import FUNCTIONS, computes_as, is_transposed_linear
from autoprune.errors import AutopruneError, ModelError, TaskError, raised
from autoprune.references import nearest
from autoprune.tensors import Inputs, call, in_eval_mode, map_tensors, tensors_in


@dataclass(frozen=True)
class Head:
    """What the last layer is to be.

    Attributes:
        outputs: how many it has.
        layer: its name; empty where it is to be found.
    """

    outputs: int
    layer: str = ""


def head_of(classes: Any, head: Any) -> Head | None:
    """The head that a task's arguments ask for, None where they ask for none.

    Args:
        classes: a number of outputs.
        head: or `{layer: name, outputs: number}`, the name only where it cannot be found.

    Raises:
        TaskError: both are given, or something else.
    """
    if classes is not None and head is not None:
        raise TaskError("classes and head: got both, expected one of them: head has the number as outputs")
    if classes is not None:
        return Head(_count("classes", classes))
    if head is None:
        return None
    if not isinstance(head, Mapping) or "outputs" not in head or not set(head) <= {"layer", "outputs"}:
        raise TaskError(
            f"head: got {head!r:.80}, expected {{outputs: number}} or {{layer: name, outputs: number}}"
        )
    layer = head.get("layer", "")
    if not isinstance(layer, str):
        raise TaskError(f"head.layer: got {layer!r:.80}, expected the name of a layer")
    return Head(_count("head.outputs", head["outputs"]), layer)


def _count(field: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise TaskError(f"{field}: got {given!r:.80}, expected a whole number of 1 or more")
    return given


class WithHead:
    """Makes networks by `make`, and gives each the head that is wanted; its signature is that of `make`.

    Args:
        make: the function or class that makes the network.
        head: what its last layer is to be.
        example: gives inputs of batch size 1; called when the first network is made.
        chosen: picks the tensor that counts from a network's outputs.
    """

    def __init__(
        self,
        make: Callable[..., nn.Module],
        head: Head,
        example: Callable[[], Inputs],
        chosen: Callable[[Any], torch.Tensor],
    ) -> None:
        self.make, self._head, self._chosen = make, head, chosen
        self._give, self._example = example, None
        with contextlib.suppress(TypeError, ValueError):  # written in C, and without a signature
            self.__signature__ = inspect.signature(make)

    def __call__(self, *positional: Any, **named: Any) -> nn.Module:
        model = self.make(*positional, **named)
        if self._example is None:  # a copy: one example must not hold the memory of a whole split
            self._example = map_tensors(torch.clone, self._give())
        give_head(model, self._head, self._example, self._chosen)
        return model


def give_head(model: nn.Module, head: Head, example: Inputs, chosen: Callable[[Any], torch.Tensor]) -> None:
    """Put a fresh layer in the place of the last one, in place; nothing where that has as many outputs already.

    A linear layer stays a linear layer of the same inputs, a convolution keeps kernel, stride and padding.

    Args:
        model: the network.
        head: how many outputs, and the layer where it is known.
        example: inputs of batch size 1.
        chosen: picks the tensor that counts from the network's outputs.

    Raises:
        ModelError: the network does not run on the example; the last layer cannot be found, is neither linear nor a
            convolution, or does not decide about the size of the outputs.
    """
    before = _shape(model, example, chosen)
    name = _known(model, head.layer) if head.layer else _last_layer(model, example, chosen)
    layer = model.get_submodule(name)
    width = _outputs(layer)
    if width is None:
        raise ModelError(
            f"the head, {repr(name) if name else 'the network itself'}, is a {type(layer).__name__}, expected a linear "
            "layer or a convolution without groups: make the network with as many outputs as are needed"
        )
    if width == head.outputs:
        return
    if not name:
        raise ModelError("the network is its head and nothing else: put it into an nn.Sequential")
    replace(model, layer, _fresh(layer, head.outputs).train(layer.training))
    _check_outputs(before, model, example, chosen, name, head.outputs)
    _tell_config(model, width, head.outputs)


def _known(model: nn.Module, layer: str) -> str:
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise ModelError(f"head.layer: the network has no layer {layer!r}{nearest(layer, names)}")
    return layer


def _last_layer(model: nn.Module, example: Inputs, chosen: Callable[[Any], torch.Tensor]) -> str:
    found = last_layers(model, example, lambda outputs: [chosen(outputs)])
    modules = dict(model.named_modules())
    if len(found) == 1 and found[0] in modules:
        return found[0]
    advice = (
        "name it (head: {layer: ..., outputs: ...}), or make the network with as many outputs as are needed"
    )
    if not found:
        raise ModelError(
            f"the head cannot be found: no layer is met when the outputs are followed back (is the network run without "
            f"gradients?); {advice}"
        )
    if len(found) == 1:
        raise ModelError(
            f"the head cannot be found: a function makes the outputs from {found[0]!r}, no linear layer or "
            f"convolution; {advice}"
        )
    raise ModelError(
        f"the head cannot be found: the outputs come from several layers, {', '.join(found)}; {advice}"
    )


def last_layers(
    model: nn.Module, inputs: Inputs, chosen: Callable[[Any], Sequence[torch.Tensor]] = tensors_in
) -> list[str]:
    """The layers that the outputs come from, sorted: those that are met first on the way back from the outputs.

    Between outputs and layers may be anything without parameters, or with a single number.

    Args:
        model: left as it is: a copy is run, in eval mode.
        inputs: of any batch size.
        chosen: picks the tensors to start from.

    Returns:
        names of layers, and of parameters that a function reads without a layer.
    """
    probe = copy.deepcopy(model).eval()
    names = {id(parameter): name for name, parameter in probe.named_parameters()}
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    calls: list[tuple[str, Any]] = []  # module, and the operation that made one of its outputs

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            calls.extend((name, tensor.grad_fn) for tensor in tensors_in(outputs))

        return hook

    for name, module in probe.named_modules():
        is_part = ".parametrizations." in f".{name}."
        if not is_part and next(module.parameters(), None) is not None:
            module.register_forward_hook(watch(name))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        outputs = call(probe, map_tensors(torch.clone, inputs))
    return _first_met([tensor.grad_fn for tensor in chosen(outputs)], _layers(calls), names)


def _layers(calls: Sequence[tuple[str, Any]]) -> dict[Any, str]:
    """Operation -> layer, for the modules that did their work themselves: they called no module with parameters."""
    called = {name for name, _ in calls}
    around = {name[:end] for name in called for end, sign in enumerate(name) if sign == "."}
    around |= {""} if called - {""} else set()
    return {operation: name for name, operation in calls if operation is not None and name not in around}


def _first_met(starts: Sequence[Any], made: Mapping[Any, str], names: Mapping[int, str]) -> list[str]:
    """Of the recorded operations behind `starts` the first on each way that a layer made, or that is a parameter."""
    waiting, seen, found = [node for node in starts if node is not None], set(), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if node in made:
            found.add(made[node])
        elif variable is None:
            waiting.extend(before for before, _ in node.next_functions if before is not None)
        elif variable.numel() > 1:
            found.add(names[id(variable)])
    return sorted(found)


def _outputs(layer: nn.Module) -> int | None:
    """How many outputs a layer has; None for one of which no other number can be made."""
    if is_transposed_linear(layer):
        return int(layer.get_parameter("weight").shape[1])
    kind = next((kind for kind in FUNCTIONS if computes_as(layer, getattr(nn, kind))), "")
    if not kind or getattr(layer, "groups", 1) != 1:
        return None
    return int(getattr(layer, "out_features" if kind == "Linear" else "out_channels"))


def _fresh(layer: Any, outputs: int) -> nn.Module:
    """A layer like this one with so many outputs, drawn from torch's generator."""
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if is_transposed_linear(layer):
        return nn.Linear(layer.weight.shape[0], outputs, **place)
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, bias=has_bias, **place)
    kind = next(kind for kind in FUNCTIONS if isinstance(layer, getattr(nn, kind)))
    options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    if kind.startswith("ConvTranspose"):
        options["output_padding"] = layer.output_padding
    made: nn.Module = getattr(nn, kind)(
        layer.in_channels, outputs, layer.kernel_size, bias=has_bias, **options, **place
    )
    return made


@torch.no_grad()
def _shape(model: nn.Module, example: Inputs, chosen: Callable[[Any], torch.Tensor]) -> tuple[int, ...]:
    """The shape of the tensor that counts; the network is left in the mode in which it was."""
    try:
        with in_eval_mode(model), torch.random.fork_rng(devices=[]):
            return tuple(chosen(call(model, map_tensors(torch.clone, example))).shape)
    except AutopruneError:
        raise
    except Exception as error:  # whatever a stranger's network raises is the finding
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(example))
        raise ModelError(
            f"the network, on an example of the data of shape {shapes}, {raised(error)}"
        ) from error


def _check_outputs(
    before: tuple[int, ...],
    model: nn.Module,
    example: Inputs,
    chosen: Callable[[Any], torch.Tensor],
    name: str,
    outputs: int,
) -> None:
    """Refuse a head whose number of outputs is not that of the network: it is split, or put together with others."""
    try:
        after = _shape(model, example, chosen)
    except ModelError as error:
        raise ModelError(f"with {outputs} outputs of its head {name!r}, {error}") from error
    changed = [axis for axis, (old, new) in enumerate(zip(before, after, strict=False)) if old != new]
    if len(before) != len(after) or len(changed) != 1 or after[changed[0]] != outputs:
        raise ModelError(
            f"with {outputs} outputs of its head {name!r} the network gives shape {after} instead of {before}: its "
            "code counts on the former number"
        )


def _tell_config(model: Any, before: int, after: int) -> None:
    """Let a model of transformers know how many labels it has now."""
    if getattr(getattr(model, "config", None), "num_labels", None) == before:
        model.config.num_labels = after
    for module in model.modules():
        if vars(module).get("num_labels") == before:
            module.num_labels = after
