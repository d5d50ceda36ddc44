"""Distillation: a candidate learns from what a teacher says, or from what its layers give, besides from the labels.

For small and shortly trained candidates that is worth points of accuracy, at the price of the teacher's forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.compress.distill.dkd import decoupled_distance
from autoprune.compress.distill.features import AUTO, Pair, compared, listening, observe
from autoprune.compress.distill.lessons import (
    ATTENTION,
    DKD,
    HINTS,
    LOGITS,
    OF_FEATURES,
    SELF,
    Lesson,
)
from autoprune.compress.distill.logits import (
    CLASSES,
    REAL,
    averaged,
    averaged_labels,
    class_axis,
    counted_places,
    outputs_kind,
    places_of,
    soft_distance,
    soft_labels_distance,
)
from autoprune.compress.distill.self_distillation import MeanTeacher
from autoprune.compress.distill.teachers import ALL, REFERENCE, Teacher, Teachers, check_fit
from autoprune.compress.technique import Context, Technique
from autoprune.errors import ModelError, TaskError
from autoprune.references import nearest
from autoprune.space import Choice, Choices, Options, Range
from autoprune.task import TrainsItself, example_inputs, main_output
from autoprune.tensors import call
from autoprune.train import steps_per_epoch

if TYPE_CHECKING:
    from autoprune.targets import Target
    from autoprune.task import Batch, Data, Task

METHOD = "distill.method"
TEMPERATURE = "distill.temperature"
KD_WEIGHT = "distill.kd_weight"
ALPHA, BETA = "distill.alpha", "distill.beta"
HINT_WEIGHT = "distill.hint_weight"
LAYERS = "distill.layers"
TEACHERS = "distill.teachers"
SEPARATOR = ", "

Comparison = dict[str, tuple[list[Pair], dict[str, str]]]
"""By teacher, the layers that are compared, and why others are not."""


class Distill(Technique):
    """Mix the task's loss with the distance to a teacher.

    The loss is `(1 - kd_weight) * loss + kd_weight * distance`. The distance fits the kind of outputs, which a task
    names by an attribute `outputs`:

    | kind | distance |
    |---|---|
    | `logits` | `T² KL(teacher/T ‖ student/T)`, where the temperature `T` flattens both distributions |
    | `token_logits`, `segmentation` | the same, averaged over the tokens or pixels that count |
    | `multi_label` | `T²` times the KL divergence of each label on its own |
    | `values`, `scores` | the mean squared error |

    Without it, whole-number targets mean logits. Of outputs with several tensors, `autoprune.task.main_output` says
    which one is compared. The method says what is learned:

    | method | what it does |
    |---|---|
    | `logits` | the above |
    | `dkd` | a distance whose two parts have weights of their own (see `dkd`); needs one class for each place |
    | `hints` | adds `hint_weight` times the distance of features, projected (see `hints`) |
    | `attention_transfer` | adds `hint_weight` times the distance of attention maps (see `attention_transfer`) |
    | `self` | the teacher is the moving average of the candidate's own weights (see `self_distillation`) |

    Layers whose features cannot be compared in a candidate are left out; where none is left, what the teacher says
    remains. `context.structure["distill"]` records both.

    Args:
        temperature: the choice of `T`, read only where the weight is above 0.
        kd_weight: the choice of the weight: 0 learns from labels (and features) alone, 1 from the teacher alone.
        teacher: references to teachers (see `teachers`), `reference` for the uncompressed network. Of several, one is
            chosen, or the mean of their probabilities.
        method: the choice of the method.
        alpha, beta: the choices of the weights of `dkd`: of the right class, and of the others.
        hint_weight: the choice of the weight of features, read by `hints` and `attention_transfer`.
        layers: the choice of the layers whose features are compared: patterns of names, separated by a comma and a
            blank, or `auto` for three that are found.
        folder: where a relative file of `teacher` is looked for first.
    """

    name = "distill"

    def __init__(
        self,
        temperature: Choice = Range(1.0, 8.0, neutral=4.0),  # noqa: B008  (immutable)
        kd_weight: Choice = Range(0.0, 1.0, neutral=0.0),  # noqa: B008
        teacher: Sequence[str] = (REFERENCE,),
        method: Options = Options((LOGITS,), LOGITS),  # noqa: B008
        alpha: Choice = Options((1.0,), 1.0),  # noqa: B008
        beta: Choice = Range(1.0, 8.0, neutral=4.0),  # noqa: B008
        hint_weight: Choice = Range(0.1, 10.0, neutral=1.0, log=True),  # noqa: B008
        layers: Options = Options((AUTO,), AUTO),  # noqa: B008
        folder: Path | None = None,
    ) -> None:
        self.temperature, self.kd_weight, self.method, self.layers = temperature, kd_weight, method, layers
        self.alpha, self.beta, self.hint_weight = alpha, beta, hint_weight
        self.teachers = Teachers(teacher, folder)
        self._task: Task | None = None
        self._own: MeanTeacher | None = None
        self._lessons: dict[str, Lesson] = {}
        self._seen: dict[str, torch.Tensor] = {}

    # -- before the search -------------------------------------------------------------------------------------------

    def check(self, task: Task, data: Data) -> None:
        """Refuse methods that cannot work with this task.

        Raises:
            TaskError: `dkd` without one class for each place; `hints` or `self` for a task that trains itself.
                (Attention transfer needs no parameters, and its hooks go where the network goes.)
        """
        self._task = task
        for method, why in _NEEDS_OUR_LOOP.items():
            if method in self.method.values and isinstance(task, TrainsItself):
                raise TaskError(
                    f"space.distill.method: got {method!r}, expected another: the task trains itself (fit), and {why}"
                )
        if DKD in self.method.values:
            _check_classes(task, next(iter(data.train.batches(2))))

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """Temperature and weight, and what there is to choose of the rest.

        Raises:
            ModelError: a teacher from outside cannot be made, raises, or does not fit; or no layer can be compared.
        """
        methods = self.method.values
        if set(methods) != {SELF}:
            self.teachers.check(model, example, self._task)
        if self._compares_features:
            self._check_layers(model, example)
        found: dict[str, Choice] = {TEMPERATURE: self.temperature, KD_WEIGHT: self.kd_weight}
        if DKD in methods:
            found |= {ALPHA: self.alpha, BETA: self.beta}
        if self._compares_features:
            found[HINT_WEIGHT] = self.hint_weight
        alternatives = {METHOD: self.method, LAYERS: self.layers, TEACHERS: self._which}
        return {**found, **{name: given for name, given in alternatives.items() if len(given.values) > 1}}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """Who teaches, how, and which layers of the uncompressed network are compared with which of each teacher."""
        found: dict[str, Any] = {"teachers": list(self.teachers.names), "methods": list(self.method.values)}
        if self._compares_features:
            found["layers"] = {
                f"{method} {patterns}": {
                    name: [pair.student for pair in pairs] for name, (pairs, _) in by.items()
                }
                for method, patterns, by in self._comparable(model, example)
            }
        return found

    @property
    def _compares_features(self) -> bool:
        return any(method in OF_FEATURES for method in self.method.values)

    @property
    def _which(self) -> Options:
        names = self.teachers.names
        return Options((*names, ALL) if len(names) > 1 else names, ALL if len(names) > 1 else names[0])

    def _check_layers(self, model: nn.Module, example: Any) -> None:
        for method, patterns, by_teacher in self._comparable(model, example):
            if any(pairs for pairs, _ in by_teacher.values()):
                continue
            names = [name for name, _ in model.named_modules() if name]
            reasons = [f"{layer} {why}" for _, left in by_teacher.values() for layer, why in left.items()]
            guess = (
                "; ".join(dict.fromkeys(reasons[:3])) or f"no layer has such a name{nearest(patterns, names)}"
            )
            raise ModelError(
                f"space.distill.layers: got {patterns!r}, expected layers that the model and a teacher have in "
                f"common, for {method}: {guess}"
            )

    def _comparable(self, model: nn.Module, example: Any) -> Iterator[tuple[str, str, Comparison]]:
        """For each method that compares features and each choice of layers, what would be compared."""
        student = observe(model, example)
        teachers = self.teachers.named(ALL, model)
        observed = {name: observe(teacher.network, example) for name, teacher in teachers.items()}
        for method in (method for method in OF_FEATURES if method in self.method.values):
            for patterns in map(str, self.layers.values):
                split = patterns.split(SEPARATOR)
                yield (
                    method,
                    patterns,
                    {
                        name: compared(student, layers, split, positions=method == ATTENTION)
                        for name, layers in observed.items()
                    },
                )

    # -- in training -------------------------------------------------------------------------------------------------

    @contextmanager
    def watch(
        self, trained: nn.Module, choices: Choices, context: Context
    ) -> Iterator[Iterable[nn.Parameter]]:
        """Listen to the layers that are compared; gives the parameters of the projections of `hints`.

        The projections are forgotten afterwards: the next stretch makes its own.
        """
        method = self._chosen(choices)
        self._own = MeanTeacher(trained, _steps_per_epoch(context)) if method == SELF else None
        self._lessons = self._begun(method, trained, choices, context) if method in OF_FEATURES else {}
        layers = dict.fromkeys(name for lesson in self._lessons.values() for name in lesson.student_layers)
        try:
            with listening(trained, layers) as self._seen:
                yield [parameter for lesson in self._lessons.values() for parameter in lesson.parameters]
        finally:
            self._own, self._lessons, self._seen = None, {}, {}

    def on_step(self, model: nn.Module, step: int, total: int) -> None:  # noqa: ARG002
        """Let a network that teaches itself know how long it has time for that."""
        if self._own is not None:
            self._own.lasts(total)

    def _begun(
        self, method: str, trained: nn.Module, choices: Choices, context: Context
    ) -> dict[str, Lesson]:
        """What is learned from the layers of each teacher in this stretch; recorded."""
        example, patterns = example_inputs(context.data), choices.text(LAYERS, str(self.layers.values[0]))
        student, lessons, left_out = observe(trained, example), dict[str, Lesson](), dict[str, Any]()
        for name, teacher in self._asked(choices, context).items():
            theirs = observe(teacher.network, example)
            pairs, left_out[name] = compared(
                student, theirs, patterns.split(SEPARATOR), positions=method == ATTENTION
            )
            if pairs:
                lessons[name] = Lesson(method, pairs)
        context.structure[self.name] = {
            "method": method if lessons else LOGITS,
            "layers": {name: lesson.student_layers for name, lesson in lessons.items()},
            "left_out": {name: reasons for name, reasons in left_out.items() if reasons},
        }
        return lessons

    def _chosen(self, choices: Choices) -> str:
        """The method, read only where it matters; empty where the labels alone teach."""
        weight = choices.number(KD_WEIGHT, 0.0)
        if weight <= 0.0 and not self._compares_features:
            return ""
        method = choices.text(METHOD, str(self.method.values[0]))
        return method if weight > 0.0 or method in OF_FEATURES else ""

    def _asked(self, choices: Choices, context: Context) -> dict[str, Teacher]:
        return self.teachers.named(choices.text(TEACHERS, str(self._which.neutral)), context.reference)

    def loss(
        self, outputs: Any, batch: Batch, loss: torch.Tensor, choices: Choices, context: Context
    ) -> torch.Tensor:
        """The mixed loss; the task's own, and no pass of a teacher, where nothing is learned from one.

        Methods that look into the network (`hints`, `attention_transfer`, `self`) do so inside of `watch`.
        """
        method, weight = self._chosen(choices), choices.number(KD_WEIGHT, 0.0)
        if not method:
            return loss
        seen = dict(self._seen)
        self._seen.clear()  # what the layers gave holds the graph of the step
        said, hints = self._heard(method, weight, batch, seen, choices, context)
        if weight > 0.0:
            student = main_output(context.task, outputs)
            taught = [main_output(context.task, each).float() for each in said.values()]
            for name, each in zip(said, taught, strict=True):
                check_fit(each, student, name)
            distance = self._distance(method, student, taught, batch, choices, context)
            weight *= self._own.trust if self._own is not None else 1.0
            loss = (1.0 - weight) * loss + weight * distance
        if hints:
            loss = loss + choices.number(HINT_WEIGHT, 1.0) * torch.stack(hints).mean()
        return loss

    def _heard(
        self,
        method: str,
        weight: float,
        batch: Batch,
        seen: dict[str, torch.Tensor],
        choices: Choices,
        context: Context,
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """What each teacher says, and the distances of features to its layers; one pass of each that is needed."""
        if method == SELF:
            if self._own is None:
                raise RuntimeError("watch comes first")
            return {SELF: self._own(batch.inputs)}, []
        said, hints = dict[str, Any](), list[torch.Tensor]()
        for name, teacher in self._asked(choices, context).items():
            lesson = self._lessons.get(name)
            if weight > 0.0 or lesson is not None:
                layers = lesson.teacher_layers if lesson is not None else ()
                said[name], features = teacher(batch.inputs, layers)
                hints += lesson.distances(seen, features) if lesson is not None else []
        return said, hints

    def _distance(
        self,
        method: str,
        student: torch.Tensor,
        taught: Sequence[torch.Tensor],
        batch: Batch,
        choices: Choices,
        context: Context,
    ) -> torch.Tensor:
        """How far what the student says is from the mean of what is taught."""
        kind = outputs_kind(context.task, batch)
        if kind in REAL:
            return F.mse_loss(student, torch.stack(list(taught)).mean(0))
        temperature = choices.number(TEMPERATURE, 4.0)
        if kind == "multi_label":
            return soft_labels_distance(student, averaged_labels(taught, temperature), temperature)
        axis, counted = class_axis(kind), counted_places(context.task, batch, kind, student)
        wanted = averaged(taught, temperature, axis)
        if method != DKD:
            return soft_distance(student, wanted, temperature, axis, counted)
        return decoupled_distance(
            student,
            wanted,
            batch.targets,
            temperature=temperature,
            alpha=choices.number(ALPHA, 1.0),
            beta=choices.number(BETA, 4.0),
            axis=axis,
            counted=counted,
        )


_NEEDS_OUR_LOOP = {
    HINTS: "has no place for the projections, which are trained along",
    SELF: "need not train the network that it is given step by step, whose average would teach",
}


def _steps_per_epoch(context: Context) -> int:
    return steps_per_epoch(context.data.train, context.settings.batch_size)


def _check_classes(task: Task, batch: Batch) -> None:
    """Refuse decoupled distillation for a task whose targets are not one class for each example, token or pixel."""
    kind, targets = outputs_kind(task, batch), batch.targets
    expected = f"space.distill.method: got {DKD!r}, which needs one class for each example, token or pixel"
    if kind not in CLASSES:
        raise TaskError(f"{expected}; the task's outputs are {kind!r}")
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        raise TaskError(f"{expected}; the task's targets are no whole numbers")
    with torch.no_grad():
        places = places_of(kind, main_output(task, call(task.model().eval(), batch.inputs)))
    if targets.shape != places:
        raise TaskError(
            f"{expected}; the task's targets have shape {tuple(targets.shape)}, expected {tuple(places)}"
        )
