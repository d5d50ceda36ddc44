"""A candidate as a module: built from choices, started from the reference, saved and restored.

A checkpoint is one safetensors file: the float weights, and in its header the realised structure as JSON. That is
all that the next rung, an export or another machine needs; nothing is unpickled.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from autoprune.compress.technique import Context, Technique
from autoprune.errors import NoNetwork, RunFolderError, SpecError, raised
from autoprune.references import nearest
from autoprune.space import ARCHITECTURE, Choices, Options, Value
from autoprune.space.kinds import kinds
from autoprune.spec import Spec
from autoprune.structure.parametrize import make_model
from autoprune.targets.formats import unready, unwritable
from autoprune.targets.several import SeveralRunnables
from autoprune.targets.target import configured
from autoprune.task import Task, example_inputs
from autoprune.task.model_space import space_of
from autoprune.tensors import Inputs, call

HEADER = "autoprune"


def architecture_choices(spec: Spec, task: Task) -> dict[str, Options]:
    """The architecture part of the space: the spec's, checked against the signature of the task's `model`.

    Raises:
        SpecError: an option that `model` does not take.
    """
    wanted = spec.space.architecture
    if wanted == "default":
        wanted = getattr(task, "architecture", {})
    if (space := space_of(task.model)) is not None:
        return _of_model_space(wanted, space.options)
    signature = inspect.signature(task.model)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    problems = [
        f"space.architecture.{name}: the task's model() takes no such argument"
        f"{nearest(name, signature.parameters)}"
        for name in wanted
        if name not in signature.parameters and not takes_any
    ]
    if problems:
        raise SpecError(problems)
    return {
        name: Options(tuple(values), _default(signature, name, values)) for name, values in wanted.items()
    }


def _of_model_space(
    wanted: Mapping[str, Sequence[Value]], offered: Mapping[str, Options]
) -> dict[str, Options]:
    """What is wanted of the options of a model space."""
    problems = [
        f"space.architecture.{name}: the model space has no such label{nearest(name, offered)}"
        for name in wanted
        if name not in offered
    ]
    problems += [
        f"space.architecture.{name}: got {value!r}, expected some of {', '.join(map(str, offered[name].values))}"
        f"{nearest(str(value), map(str, offered[name].values))}"
        for name, values in wanted.items()
        for value in values
        if name in offered and value not in offered[name]
    ]
    if problems:
        raise SpecError(problems)
    return {name: Options(tuple(values), offered[name].neutral) for name, values in wanted.items()}


def _default(signature: inspect.Signature, name: str, values: Sequence[Value]) -> Value:
    """What the baseline uses: the default of the argument, the last option where it has none."""
    parameter = signature.parameters.get(name)
    has_default = parameter is not None and parameter.default is not inspect.Parameter.empty
    return parameter.default if parameter is not None and has_default else values[-1]


def variants(architecture: Mapping[str, Options]) -> Iterator[dict[str, Value]]:
    """The baseline, and each architecture option on its own; those of one kind (`s2_depth`, `s3_depth`) together."""
    yield {}
    for names in kinds(architecture).values():
        for value in dict.fromkeys(value for name in names for value in architecture[name].values):
            yield {name: value for name in names if value in architecture[name]}


def build(choices: Choices, context: Context) -> nn.Module:
    """The architecture that the choices ask for, started from the reference's weights, or the context's others.

    Reads every `architecture.*` choice and records them in `context.structure["architecture"]`.
    """
    architecture = architecture_of(choices)
    context.structure["architecture"] = architecture
    model = instantiate(architecture, context)
    if _shares(model, context):
        context.mend(model)  # a sub-network has no statistics of its own
    return model


def architecture_of(choices: Choices) -> dict[str, Value]:
    """The arguments of the task's `model` that the choices ask for."""
    names = [name for name in choices if name.startswith(ARCHITECTURE)]
    return {name.removeprefix(ARCHITECTURE): choices[name] for name in names}


def instantiate(architecture: Mapping[str, Any], context: Context) -> nn.Module:
    """The task's network with these arguments, in eval mode, with the weights that candidates start from."""
    torch.manual_seed(context.seed)
    model = make_model(context.task, architecture)
    if context.shared is not None and _shares(model, context):
        context.shared.fill(model, architecture)
    else:
        inherit(model, context.reference if context.origin is None else context.origin)
    model.eval()
    if architecture:
        check_runs(model, architecture, example_inputs(context.data))
    return model


@torch.no_grad()
def check_runs(model: nn.Module, architecture: Mapping[str, Any], example: Inputs) -> None:
    """Run a network of another architecture than the baseline's once.

    Raises:
        NoNetwork: it does not; the message has the choices.
    """
    try:
        call(model, example)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in architecture.items())
        raise NoNetwork(f"the network of {given} does not run: {raised(error)}") from error


def _shares(model: nn.Module, context: Context) -> bool:
    """Whether a network starts from the shared weights: where there are such, and it is not the reference's own."""
    if context.shared is None or context.origin is not None:
        return False
    return shapes_of(model) != shapes_of(context.reference)


def has_weights(context: Context) -> bool:
    """Whether the architecture that is recorded had trained weights from the start: the reference's, or shared ones."""
    architecture = context.structure["architecture"]
    if not architecture or context.shared is not None:
        return True
    with torch.random.fork_rng(devices=[]):
        return shapes_of(make_model(context.task, architecture)) == shapes_of(context.reference)


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shape of each parameter, by name."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def make(techniques: Sequence[Technique], choices: Choices, context: Context) -> nn.Module:
    """The candidate as its techniques make it, from the weights that candidates start from."""
    model = build(choices, context)
    for technique in techniques:
        model = technique.apply(model, choices, context)
    return model


def bits_of(
    techniques: Sequence[Technique], model: nn.Module, choices: Choices
) -> dict[str, tuple[int, int]]:
    """(weight bits, activation bits) of each layer of a candidate that will not stay float."""
    bits: dict[str, tuple[int, int]] = {}
    for technique in techniques:
        bits.update(technique.bits(model, choices))
    return bits


def finalized(
    techniques: Sequence[Technique], model: nn.Module, choices: Choices, context: Context
) -> nn.Module:
    """The module that is measured and deployed, in eval mode; `model` itself stays as it was."""
    for technique in techniques:
        model = technique.finalize(model, choices, context)
    return model.eval()


def unwritable_formats(
    formats: Sequence[str], techniques: Sequence[Technique], context: Context, example: Inputs
) -> list[str]:
    """One line for each format that is not ready here, or cannot carry the uncompressed network in the fewest bits."""
    problems = [f"export: {line}" for line in unready(formats)]
    if problems or not formats:
        return problems
    choices = _fewest_bits(techniques, context, example)
    deployed = finalized(techniques, context.reference, choices, context)
    runnable = configured(context.target, choices).build(deployed, example)
    parts = runnable.parts if isinstance(runnable, SeveralRunnables) else {"": runnable}
    return [
        f"export: {name}: {line}" if name else f"export: {line}"
        for name, part in parts.items()
        for line in unwritable(formats, deployed, example, part.files)
    ]


def _fewest_bits(techniques: Sequence[Technique], context: Context, example: Inputs) -> Choices:
    """The point of the uncompressed network with as few bits in each layer as it may have."""
    found = [technique.choices(context.reference, example, context.target) for technique in techniques]
    bits = {name: choice for one in found for name, choice in one.items() if name.endswith("_bits")}
    whole = {name: choice.neutral for one in found for name, choice in one.items() if name not in bits}
    return Choices({**whole, **{n: min(c.values) for n, c in bits.items() if isinstance(c, Options)}})


def untrained(techniques: Sequence[Technique], context: Context, seed: int) -> nn.Module:
    """A candidate's network as the task makes it under a seed, in the structure that is recorded so far."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(context.task, context.structure["architecture"])
        for technique in techniques:
            if technique.name in context.structure:
                model = technique.restore(model, context)
    return model.eval()


@torch.no_grad()
def inherit(model: nn.Module, reference: nn.Module) -> None:
    """Start `model` from the weights of `reference`, as far as their names agree.

    Equal shapes are copied. Where the model is narrower or its kernel smaller, it takes the leading channels and
    the middle of the kernel; where it is larger, the rest keeps its fresh initialisation.
    """
    source = reference.state_dict()
    for name, tensor in model.state_dict().items():
        if name in source and source[name].dim() == tensor.dim():
            ours = tuple(
                _overlap(axis, size, other) for axis, (size, other) in enumerate(_sizes(tensor, source[name]))
            )
            theirs = tuple(
                _overlap(axis, size, other) for axis, (other, size) in enumerate(_sizes(tensor, source[name]))
            )
            tensor[ours] = source[name][theirs]


def _sizes(one: torch.Tensor, other: torch.Tensor) -> list[tuple[int, int]]:
    return list(zip(one.shape, other.shape, strict=True))


def _overlap(axis: int, size: int, other: int) -> slice:
    """Of an axis with `size` entries the part that one with `other` entries shares: channels lead, kernels centre."""
    common = min(size, other)
    start = (size - common) // 2 if axis >= 2 else 0
    return slice(start, start + common)


def save_checkpoint(model: nn.Module, structure: Mapping[str, Any], rung: int) -> bytes:
    """The candidate's float weights and structure, to continue from."""
    # One field: safetensors writes several in any order, and the same candidate must give the same bytes.
    header = {HEADER: json.dumps({"structure": structure, "rung": rung}, sort_keys=True)}
    return weights_of(model, header)


def weights_of(model: nn.Module, header: dict[str, str] | None = None) -> bytes:
    """The state of a network as safetensors bytes, with text fields in their header."""
    # Tied tensors are stored once each: safetensors refuses views of one storage.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    return bytes(save_tensors(tensors, metadata=header))


def restore(checkpoint: bytes, techniques: Sequence[Technique], context: Context) -> tuple[nn.Module, int]:
    """The module that `save_checkpoint` saved, and the rung it had reached.

    Raises:
        RunFolderError: the bytes are not a checkpoint of this task.
    """
    try:
        header = read_header(checkpoint)
        context.structure.update(header["structure"])
        rung = int(header["rung"])
        model = instantiate(context.structure["architecture"], context)
        for technique in techniques:
            model = technique.restore(model, context)
        model.load_state_dict(load_tensors(checkpoint))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunFolderError(f"the checkpoint is damaged, or of another task: {reason}") from error
    return model.eval(), rung


def read_header(checkpoint: bytes) -> dict[str, Any]:
    """`structure` and `rung` of a checkpoint, without its tensors."""
    length = int.from_bytes(checkpoint[:8], "little")
    if not 2 <= length <= len(checkpoint) - 8:
        raise ValueError("not a safetensors file")
    fields = json.loads(checkpoint[8 : 8 + length])["__metadata__"]
    header: dict[str, Any] = json.loads(fields[HEADER])
    return header
