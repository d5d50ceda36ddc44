"""What a task and a target make of a spec before anything is trained: its space, and what cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoprune.candidate import architecture_choices, check_runs, unwritable_formats, variants
from autoprune.compress.quantize import illegal_bits
from autoprune.compress.technique import Context, Technique
from autoprune.errors import NoNetwork
from autoprune.space import ARCHITECTURE, Choice, Space
from autoprune.spec import Spec
from autoprune.structure.parametrize import make_model
from autoprune.targets import Target
from autoprune.targets.target import designs, own_choices, problems_of
from autoprune.task import Data, Task, example_inputs, model_problems
from autoprune.tensors import Inputs


def description(
    spec: Spec, task: Task, data: Data, target: Target, techniques: Sequence[Technique]
) -> dict[str, Any]:
    """The space of a task on a target, and why some layers are not in it, as plain data.

    Layers that exist in some architectures only are found by building each architecture option once.

    Returns:
        `choices` (of the space), `techniques` (what each says of the network), `designs` (of the target), `examples`
        (of the splits) and `warnings`.
    """
    example, architecture = example_inputs(data), architecture_choices(spec, task)
    choices: dict[str, Choice] = {f"{ARCHITECTURE}{name}": choice for name, choice in architecture.items()}
    details: dict[str, Any] = {}
    seen: set[str] = set()
    problems = model_problems(task.model(), example)
    warnings = [*spec.doubts(), *(p.sentence for p in problems if p.severity == "warning")]
    for variant in variants(architecture):
        try:
            model = make_model(task, variant).eval()
            check_runs(model, variant, example)
        except NoNetwork as error:
            warnings.append(f"points like this one are rejected: {error}")
            continue
        layers = {name for name, module in model.named_modules() if not list(module.children())}
        if layers <= seen:
            continue
        seen |= layers
        for technique in techniques:
            for name, choice in technique.choices(model, example, target).items():
                choices.setdefault(name, choice)
            details.setdefault(technique.name, technique.describe(model, example))
        for name, choice in own_choices(target, model, example).items():
            choices.setdefault(name, choice)
    if spec.space.learning_rate is not None:
        choices["train.learning_rate"] = spec.space.learning_rate
    return {
        "choices": Space(choices).to_json(),
        "techniques": details,
        "designs": designs(target, make_model(task, {}).eval(), example),
        "examples": {"train": len(data.train), "val": len(data.val)},
        "warnings": warnings,
    }


def unrunnable(spec: Spec, context: Context, techniques: Sequence[Technique], example: Inputs) -> list[str]:
    """What the spec asks of the target that it cannot do, a line each: bits, and layers of the task's model.

    Args:
        spec: what is asked.
        context: of the task's model as it is.
        techniques: of the search.
        example: inputs of batch size 1.
    """
    target = context.target
    problems = [f"target: {line}" for line in problems_of(target, context.reference, example)]
    problems += illegal_bits(spec.space.quantize, target)
    return problems or unwritable_formats(spec.export, techniques, context, example)
