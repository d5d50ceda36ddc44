"""The contract tests of tasks, techniques, targets and samplers, as functions.

`autoprune check file.py:Name` runs them on a user's object; our own tests run them on everything built in. Each
check is a small function that raises when the object breaks its contract; what it promises is its docstring.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from autoprune.compress.technique import Context, Technique
from autoprune.errors import BadInput, raised
from autoprune.references import wrong_arguments
from autoprune.space import Choices, Space
from autoprune.structure.parametrize import make_model
from autoprune.targets import Target
from autoprune.task import Task, check_task, example_inputs
from autoprune.tensors import call, map_tensors, tensors_in
from autoprune.train import TrainSettings, train


class Check(NamedTuple):
    """The outcome of one contract test."""

    name: str
    ok: bool
    message: str


Test = Callable[[], None]


class Broken(BadInput):
    """An object does not keep its contract; the message says in what."""


def check_object(found: Any, task: Task, target: Target) -> list[Check]:
    """Run the contract tests of whatever kind of object `found` is (a class is called without arguments first).

    Args:
        found: a task, technique, target or sampler.
        task: a small task on which techniques and targets are tried.
        target: the target that techniques are tried for.

    Raises:
        Broken: `found` is none of the four kinds, or a class that cannot be made without arguments.
    """
    return [_run(test) for test in _tests(_made(found), task, target)]


def _made(found: Any) -> Any:
    if not isinstance(found, type):
        return found
    if problem := wrong_arguments(found, {}):
        raise Broken(f"{found.__name__} is made without arguments here, but: {problem}")
    try:
        return found()
    except Exception as error:  # whatever a stranger's class raises is the finding
        raise Broken(f"{found.__name__}() {raised(error)}") from error


def _tests(found: Any, task: Task, target: Target) -> list[Test]:
    from optuna.samplers import BaseSampler

    if isinstance(found, Technique):
        return technique_tests(found, task, target)
    if isinstance(found, BaseSampler):
        return sampler_tests(found)
    if isinstance(found, Task):
        return task_tests(found)
    if all(hasattr(found, name) for name in ("supports", "build", "measure")):
        return target_tests(found, task)
    raise Broken(
        f"it is of type {type(found).__name__}: neither a task (model, data, loss, metrics), "
        "a technique (autoprune.Technique), a target (supports, build, measure) "
        "nor a sampler (optuna.samplers.BaseSampler)"
    )


def _run(test: Test) -> Check:
    name = (test.__doc__ or test.__name__).strip().rstrip(".")
    try:
        test()
    except Exception as error:  # whatever a stranger's object raises is the finding
        return Check(name, False, f"{type(error).__name__}: {error}")
    return Check(name, True, "")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Broken(message)


def task_tests(task: Task) -> list[Test]:
    """A task runs, has a finite loss and metrics, is the same under a seed, and can be trained."""

    def runs() -> None:
        """model, data, loss and metrics work together, with finite values."""
        check_task(task, task.data())

    def is_deterministic() -> None:
        """data() and the outputs are the same on every call."""
        model, first, second = task.model().eval(), task.data(), task.data()
        with torch.no_grad():
            one, other = (tensors_in(call(model, example_inputs(data))) for data in (first, second))
        _require(_are_equal(one, other), "two calls of data() or of the model differ")

    def trains() -> None:
        """A few steps of training change the weights and leave the loss finite."""
        torch.manual_seed(0)
        model, data = task.model(), task.data()
        before = copy.deepcopy(model.state_dict())
        settings = TrainSettings(batch_size=32)
        share = min(1.0, 3 * settings.batch_size / len(data.train))
        summary = train(model, task, data.train, epochs=share, settings=settings, seed=0)
        _require(math.isfinite(summary.loss), f"the loss is {summary.loss}")
        changed = any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
        _require(changed, "no weight changed")

    return [runs, is_deterministic, trains]


def technique_tests(technique: Technique, task: Task, target: Target) -> list[Test]:
    """A technique keeps the shape of outputs, does nothing when neutral, and is deterministic."""
    torch.manual_seed(0)
    data = task.data()
    reference = make_model(task, {}).eval()
    example = example_inputs(data)
    space = Space(technique.choices(reference, example, target))
    strongest = {name: choice.at(1.0) for name, choice in space.items()}

    def make(point: dict[str, Any]) -> tuple[nn.Module, Context]:
        context = Context(task, data, target, reference, seed=0)
        choices = Choices(point)
        model = technique.apply(copy.deepcopy(reference), choices, context)
        return technique.finalize(model, choices, context).eval(), context

    def outputs(model: nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            return tensors_in(call(model, example))

    def has_choices() -> None:
        """Its choices are named after it, and it has some."""
        _require(len(space) > 0, "choices() is empty for this model")
        wrong = [name for name in space if not name.startswith(technique.name + ".")]
        _require(not wrong, f"not named {technique.name}.…: {wrong}")

    def keeps_shape() -> None:
        """The changed model takes the same inputs and gives outputs of the same shape."""
        shapes, expected = ([out.shape for out in outputs(m)] for m in (make(strongest)[0], reference))
        _require(shapes == expected, f"the output shape changed from {expected} to {shapes}")

    def is_neutral() -> None:
        """Neutral choices leave the outputs unchanged."""
        difference = _distance(outputs(make(space.neutral())[0]), outputs(reference))
        _require(difference <= 1e-4, f"outputs moved by {difference:.2g}")

    def is_deterministic() -> None:
        """The same choices and seed give the same outputs and the same record."""
        (one, first), (other, second) = make(strongest), make(strongest)
        _require(_are_equal(outputs(one), outputs(other)), "two runs differ")
        _require(first.structure == second.structure, "two runs record different structures")

    def restores() -> None:
        """restore() repeats what apply() recorded: the same layers and shapes."""
        context = Context(task, data, target, reference, seed=0)
        model = technique.apply(copy.deepcopy(reference), Choices(strongest), context)
        again = technique.restore(copy.deepcopy(reference), context)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        _require({n: v.shape for n, v in again.state_dict().items()} == shapes, "shapes differ")

    return [has_choices, keeps_shape, is_neutral, is_deterministic, restores]


def target_tests(target: Target, task: Task) -> list[Test]:
    """A target runs the task's model as torch does, measures it, and refuses what it cannot run."""
    model = make_model(task, {}).eval()
    example = example_inputs(task.data())

    def runs_the_same() -> None:
        """The runnable gives torch's outputs, for a batch as for one example."""
        runnable = target.build(model, example)
        inputs = map_tensors(lambda tensor: torch.cat([tensor, tensor]) if tensor.dim() else tensor, example)
        with torch.no_grad():
            expected = tensors_in(call(model, inputs))
        difference = _distance(tensors_in(runnable.run(inputs)), expected)
        _require(difference <= 1e-3, f"outputs differ by {difference:.2g}")

    def measures() -> None:
        """A measurement is positive and says how far it can be trusted."""
        measurement = target.measure(target.build(model, example), example)
        _require(measurement.latency_ms > 0, f"latency_ms is {measurement.latency_ms}")
        _require(math.isfinite(measurement.spread), "no spread is reported")

    def twice_is_not_faster() -> None:
        """Computing the model twice does not take less time than once."""
        once = target.measure(target.build(model, example), example).latency_ms
        twice = target.measure(target.build(_Twice(model), example), example).latency_ms
        _require(twice > once, f"twice the work took {twice:.4g} ms, once {once:.4g} ms")

    def refuses() -> None:
        """Bit widths that it does not list are refused with a reason."""
        illegal = next(bits for bits in range(2, 64) if bits not in target.weight_bits)
        reason = target.supports({"quantize.layer.weight_bits": illegal})
        _require(bool(reason), f"{illegal} weight bits are not listed, and not refused")

    return [runs_the_same, measures, twice_is_not_faster, refuses]


def sampler_tests(sampler: Any) -> list[Test]:
    """A sampler proposes points inside the space, also with several objectives and past results."""

    def proposes() -> None:
        """Proposals lie in the space for twenty trials with two objectives."""
        for trial, distributions in _asked(sampler, 20):
            wrong = [
                n for n, d in distributions.items() if not d._contains(d.to_internal_repr(trial.params[n]))
            ]
            _require(not wrong, f"outside of the space: {wrong}")

    return [proposes]


def _asked(sampler: Any, trials: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    distributions = {"ratio": FloatDistribution(0.0, 0.8), "bits": CategoricalDistribution((4, 8, 32))}
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(trials):
        trial = study.ask(dict(distributions))
        yield trial, distributions
        study.tell(trial, [float(trial.params["bits"]), 1.0 - float(trial.params["ratio"])])


def _are_equal(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def _distance(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """The largest difference of any two numbers; infinite where shapes differ."""
    if [one.shape for one in ones] != [other.shape for other in others]:
        return math.inf
    pairs = zip(ones, others, strict=True)
    return max((float((one.double() - other.double()).abs().max()) for one, other in pairs), default=0.0)


class _Twice(nn.Module):
    """A model that computes another one twice over."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *positional: Any, **named: Any) -> list[torch.Tensor]:
        """Means of two runs on inputs that differ, so that no optimizer folds them into one."""
        ones = tensors_in(self.model(*positional, **named))
        others = tensors_in(
            self.model(*map(_changed, positional), **{name: _changed(value) for name, value in named.items()})
        )
        return [(one + other) * 0.5 for one, other in zip(ones, others, strict=True)]


def _changed(inputs: Any) -> Any:
    """Other inputs of the same kind: real numbers halved, the order of whole ones reversed."""
    return map_tensors(
        lambda tensor: tensor * 0.5 if tensor.is_floating_point() else _reversed(tensor), inputs
    )


def _reversed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flip(-1) if tensor.dim() else tensor
