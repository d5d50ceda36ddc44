"""What can be searched about a network that nobody here has seen, what cannot, and why.

`autoprune check model.py:Net` prints it in seconds; with `--deep` one trial is made of it, too: half of each group cut,
exported, quantized to eight bits, compared, written as an artifact and loaded again.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.compress.criteria.magnitude import absolute_weights
from autoprune.compress.prune import described, units_to_cut
from autoprune.compress.quantize import Quantize
from autoprune.deployed import deploy
from autoprune.errors import ArtifactError, BadInput, ModelError, raised
from autoprune.export.artifact import Contents, write_artifact
from autoprune.references import resolve
from autoprune.stored import load
from autoprune.structure import Observed, Removed, Structure, analyse, check_cut, frozen_layers, prepared
from autoprune.structure.parametrize import fold_parametrizations, is_parametrized
from autoprune.targets import Target, load_target
from autoprune.task.check_model import model_problems
from autoprune.task.sources import is_folder, load_model
from autoprune.tensors import Inputs, call, map_tensors, tensors_in

RATIO = 0.5
NEEDS_FACTORY = "load(folder, model=...)"
# How far a runtime's outputs may be from the module's, relative to the largest: float kernels, and integer ones, in
# which a value that falls on the edge between two codes may be rounded either way.
FLOAT_PARITY, INTEGER_PARITY = 1e-3, 0.1


def inspect(
    model: nn.Module, example: Inputs, *, deep: bool = False, seconds: float = 60.0
) -> dict[str, Any]:
    """What can be searched about a network, as plain data.

    Args:
        model: any network; it stays as it is.
        example: inputs of batch size 1, in the form that the network takes.
        deep: make one trial of it: every group cut by half, eight bits.
        seconds: time for checking groups; those that are not checked by then stay whole.

    Returns:
        `model`, `params`; `problems`: sentences about what a search could not live with; `warnings`; `way` and
        `ways`: how its structure was found; `groups`: name, kind, layers, channels, whether proven; `frozen`:
        layer, reason and line of the model; `quantizable`: layers, `not_quantizable`: layer and reason; `unknown`:
        operations that are not followed. With `deep`: `pruned_params` (what is left of `params`), and whether
        `zeroed_check`, `export`, `int8`, `parity` and `load` went well, `parity_error`, and `reasons` for what did not.
    """
    found: dict[str, Any] = {"model": type(model).__name__, "params": _count(model)}
    problems = model_problems(model, example)
    found["problems"] = [p.sentence for p in problems if p.severity == "error"]
    found["warnings"] = [p.sentence for p in problems if p.severity != "error"]
    if found["problems"]:
        return found
    if deep or is_parametrized(model):  # a copy of a large network only where it is changed
        model = copy.deepcopy(model).eval()
    found["folded"] = fold_parametrizations(model)
    structure = analyse(model, example, seconds=seconds)
    found.update(_structure(structure))
    found.update(_quantizable(model))
    if deep:
        steps, warnings = _trial(model, example, structure)
        found.update(steps)
        found["warnings"] += warnings
    return found


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _structure(structure: Structure) -> dict[str, Any]:
    open_groups = [group for group in structure.groups if not group.reason or group.reason == group.unproven]
    return {
        "way": structure.way,
        "ways": structure.tried,
        "groups": [described(group) for group in open_groups],
        "frozen": [
            {"layer": layer, "reason": reason, "line": line}
            for layer, (reason, line) in frozen_layers(structure.groups).items()
        ],
        "unknown": structure.unknown,
    }


def _quantizable(model: nn.Module) -> dict[str, Any]:
    layers = Quantize().describe(model, None)["layers"]
    return {
        "quantizable": [layer["name"] for layer in layers if not layer["reason"]],
        "not_quantizable": [
            {"layer": layer["name"], "reason": layer["reason"]} for layer in layers if layer["reason"]
        ],
    }


class _Trial:
    """One candidate made step by step; a step that fails is named, and the next ones go on from what there is."""

    def __init__(self, model: nn.Module, example: Inputs, target: Target) -> None:
        self.model, self.example, self.target = model, example, target
        self.original = copy.deepcopy(model)
        self.reasons: dict[str, str] = {}
        self.warnings: list[str] = []
        self.error = 0.0

    def step(self, name: str, work: Callable[[], None]) -> bool:
        """Whether a step went well; why it did not is in `reasons`."""
        try:
            work()
        except ModelError as error:
            self.reasons[name] = str(error)
        except Exception as error:  # of the user's network or of a runtime: it is the finding
            self.reasons[name] = f"{name} {raised(error)}"
        return name not in self.reasons

    def prune(self, structure: Structure) -> None:
        """Cut the lower half of each group, once that equals zeroing it."""
        network = prepared(self.model, self.example, structure.way)
        observed = Observed(network, self.example)
        free = {group.name for group in structure.free}
        removed: Removed = {
            group.name: absolute_weights(group, network)
            .argsort(stable=True)[: units_to_cut(group, RATIO)]
            .tolist()
            for group in observed.groups
            if group.name in free
        }
        if reason := check_cut(network, self.example, removed, visible=False):
            raise ModelError(reason)
        observed.cut(removed)
        self.model = network

    def export(self) -> None:
        """Build the float network for the target and compare."""
        self._compare(self.model, FLOAT_PARITY)

    def quantize(self) -> None:
        """Eight bits wherever there can be, built for the target."""
        bits = dict.fromkeys(_quantizable(self.model)["quantizable"], (8, 8))
        deployed = deploy(self.model, bits, self.example)
        calibrate(deployed, [self.example])
        self.model = deployed.eval()
        self._runnable = self.target.build(self.model, self.example)

    def parity(self) -> None:
        """The quantized network in the runtime against the module."""
        self._compare(self.model, INTEGER_PARITY)

    def reload(self) -> None:
        """Write an artifact, load it without the network's code, and compare."""
        contents = Contents(self.model, self.example, {}, {}, {}, {})
        with tempfile.TemporaryDirectory() as name:
            folder = write_artifact(Path(name) / "artifact", contents)
            try:
                loaded = load(folder)
            except ArtifactError as error:
                if NEEDS_FACTORY not in str(error):
                    raise
                self.warnings.append(str(error).replace(str(folder), "an artifact of it"))
                loaded = load(folder, model=lambda: copy.deepcopy(self.original))
        self._near(call(loaded, self.example), FLOAT_PARITY)

    def _compare(self, model: nn.Module, tolerance: float) -> None:
        self._near(self.target.build(model, self.example).run(self.example), tolerance)

    def _near(self, outputs: Any, tolerance: float) -> None:
        with torch.no_grad():
            expected = tensors_in(call(self.model, self.example))
        self.error = _distance(expected, tensors_in(outputs))
        if not self.error <= tolerance:
            raise ModelError(f"outputs differ by {self.error:.2g} of the largest, {tolerance:g} is accepted")


def _distance(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    if [one.shape for one in some] != [other.shape for other in others]:
        return float("inf")
    return max(
        ((a.float() - b.float()).abs().max() / a.float().abs().max().clamp_min(1e-6)).item()
        for a, b in zip(some, others, strict=True)
        if a.numel()
    )


def _trial(model: nn.Module, example: Inputs, structure: Structure) -> tuple[dict[str, Any], list[str]]:
    trial = _Trial(model, example, load_target("onnxruntime", None, {}))
    found: dict[str, Any] = {}
    found["zeroed_check"] = trial.step("prune", lambda: trial.prune(structure))
    found["pruned_params"] = _count(trial.model)
    found["export"] = trial.step("export", trial.export)
    found["export_error"] = trial.error
    found["int8"] = trial.step("int8", trial.quantize)
    found["parity"] = found["export"] and trial.step("parity", trial.parity)
    found["parity_error"] = trial.error
    found["load"] = trial.step("load", trial.reload)
    found["reasons"] = trial.reasons
    return found, trial.warnings


# -- what is inspected -----------------------------------------------------------------------------------------------


def is_network(reference: str, folder: Path) -> bool:
    """Whether a reference names a network or something that makes one, and no task, technique, target or sampler.

    Raises:
        UnresolvedReference: it leads nowhere.
    """
    where = reference.partition("?")[0]
    if (
        where != reference
        or where.startswith("transformers:")
        or where.endswith(".pt2")
        or is_folder(where, folder)
    ):
        return True
    found = resolve(reference, folder=folder)
    is_class = isinstance(found, type)
    return isinstance(found, nn.Module) or (
        issubclass(found, nn.Module) if is_class else _makes_a_network(found)
    )


def _makes_a_network(found: Any) -> bool:
    """Whether a plain function is a factory; functions are no other kind of object that can be checked."""
    return callable(found) and hasattr(found, "__code__")


def find(reference: str, inputs: list[str], folder: Path) -> tuple[nn.Module, Inputs]:
    """The network that a reference names, and inputs for it.

    Args:
        reference: a network in any form that a task takes: a class or factory in a file, of an installed package, a
            configuration, an exported program, an artifact.
        inputs: shapes, `1x3x32x32`, `ids=1x16:int`; none: `example_inputs()` in the same file, or what the network
            itself says.
        folder: where relative files are looked for.

    Raises:
        BadInput: there is no such network, or nothing says what it takes.
    """
    torch.manual_seed(0)
    model = load_model(reference, folder)
    if inputs:
        return model, parsed(inputs)
    file = reference.partition("?")[0].partition(":")[0]
    if file.endswith(".py"):
        try:
            given = resolve(f"{file}:example_inputs", folder=folder)
        except BadInput:
            given = None
        if given is not None:
            return model, given() if callable(given) else given
    dummy = getattr(model, "dummy_inputs", None)  # transformers
    if isinstance(dummy, dict) and dummy:
        return model, map_tensors(lambda tensor: tensor[:1], dummy)
    raise BadInput(
        f"{reference}: nothing says what the network takes: add example_inputs() to {file}, or give --input 1x3x32x32 "
        "(--input ids=1x16:int for whole numbers and a name)"
    )


def parsed(shapes: list[str]) -> Inputs:
    """Inputs of the given shapes: normal numbers, or small whole ones.

    Raises:
        BadInput: a shape that is none.
    """
    found = [_one_input(shape) for shape in shapes]
    if all(name for name, _ in found):
        return dict(found)
    if any(name for name, _ in found):
        raise BadInput("--input: give all inputs a name, or none")
    return found[0][1] if len(found) == 1 else tuple(tensor for _, tensor in found)


def _one_input(text: str) -> tuple[str, torch.Tensor]:
    name, _, shape = text.rpartition("=")
    shape, _, kind = shape.partition(":")
    sizes = shape.lower().split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes) or kind not in ("", "int", "float"):
        raise BadInput(f"--input: got {text!r}, expected sizes like 1x3x32x32, 1x16:int or mask=1x16:int")
    numbers = [int(size) for size in sizes]
    # Whole numbers are most often tokens; 0 and 1 are valid wherever any are, and are valid masks as well.
    tensor = torch.randint(0, 2, numbers) if kind == "int" else torch.randn(numbers)
    return name, tensor
