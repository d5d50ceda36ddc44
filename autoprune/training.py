"""The training of one candidate: a stretch for each rung, and what its techniques do before, in and after each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from autoprune.candidate import has_weights, make, restore, untrained
from autoprune.compress.technique import Context, Recovery, Technique
from autoprune.errors import TaskError
from autoprune.frozen import freeze
from autoprune.inheritance import heir_of, is_ticket
from autoprune.record import INHERITED, Request
from autoprune.space import Choices
from autoprune.spec import Spec
from autoprune.stretch import stretch
from autoprune.task import Batch, evaluate_metrics
from autoprune.train import StepHook, recalibrate

RECALIBRATION_BATCHES = 10


def is_gradual(techniques: Sequence[Technique], choices: Choices) -> bool:
    """Whether any technique trains while it changes this candidate."""
    return any(technique.is_gradual(choices) for technique in techniques)


class Training:
    """The training of one candidate.

    A short stretch takes smaller steps: of the spec's learning rate, which is that of the longest one, the root of the
    share that it has of its length. At full size the steps of half an epoch undo more of what a pruned network still
    knew than they mend. An architecture of which there were no weights, and a lottery ticket, have nothing to lose.

    Args:
        spec: for rungs, objectives and what is frozen.
        techniques: of the search, in their order.
        request: which rung is asked for, and on what terms.
        choices: of the candidate.
        context: what techniques may use; their records in it are kept up to date.
    """

    def __init__(
        self,
        spec: Spec,
        techniques: Sequence[Technique],
        request: Request,
        choices: Choices,
        context: Context,
    ) -> None:
        self.spec, self.techniques = spec, techniques
        self.request, self.choices, self.context = request, choices, context
        self._pace = 1.0  # of the spec's learning rate

    def run(self, model: nn.Module, done: int) -> nn.Module:
        """The candidate trained from rung `done` (-1: none) to the one requested, one stretch each."""
        if self.request.epochs is not None:
            self._stretch(model, self.request.epochs, self.request.rung)
            return model
        ends = (0.0, *self.spec.search.rungs)
        lengths = [end - begin for begin, end in pairwise(ends)]
        for rung in range(done + 1, self.request.rung + 1):
            epochs, is_first = lengths[rung], ends[rung] == 0
            self._pace = self._pace_of(epochs, max(lengths))
            if epochs > 0 and is_first and is_gradual(self.techniques, self.choices):
                model, epochs = self._shaped(epochs, rung)
                if epochs <= 0:
                    continue
            self._stretch(model, epochs, rung)
        return model

    def _pace_of(self, epochs: float, longest: float) -> float:
        """The share of the learning rate in a stretch; whether there is something to lose is asked where it matters."""
        structure = self.context.structure
        if not 0 < epochs < longest or is_ticket(structure):
            return 1.0
        return math.sqrt(epochs / longest) if INHERITED in structure or has_weights(self.context) else 1.0

    def _shaped(self, epochs: float, rung: int) -> tuple[nn.Module, float]:
        """The candidate made anew with training in between, and what is left of the epochs for it as a whole."""
        self.context.structure.clear()
        try:
            recovery = self.context.recovery = self._recovery(epochs, rung)
            model = heir_of(self.request.donor, self.techniques, self.choices, self.context)
            if model is None:
                recovery = self.context.recovery = self._recovery(epochs, rung)
                model = make(self.techniques, self.choices, self.context)
            return model, epochs * recovery.left
        finally:
            self.context.recovery = None

    def _recovery(self, epochs: float, rung: int) -> Recovery:
        """What gradual techniques may train in a stretch of so many epochs."""

        def descend(model: nn.Module, share: float, place: int, on_step: StepHook | None) -> None:
            self._descend(model, model, share * epochs, 1000 * (rung + 1) + place, on_step)

        def initial(draw: int) -> nn.Module:
            return untrained(self.techniques, self.context, self.context.seed + draw)

        among = sum(technique.is_gradual(self.choices) for technique in self.techniques)
        return Recovery(descend, self._quality, initial, epochs, max(1, among))

    def ticket(self) -> nn.Module:
        """The winning ticket of the candidate: its survivors, with the weights that they were rewound to.

        It is made again from what the checkpoint holds, the units that were cut or the zeros of the trained weights,
        and from the search's seed; with `rewind`, the weights before any training are trained so far once more. It is
        as the technique left it: what others did to it afterwards (low rank, say) is not in it. The request is the one
        that the candidate was made by, with the checkpoint that came of it.

        Raises:
            RunFolderError: the checkpoint is damaged.
            TaskError: the candidate is no lottery ticket.
        """
        context = self.context
        trained, _ = restore(self.request.checkpoint or b"", self.techniques, context)
        records = context.structure
        drawn = [place for place, t in enumerate(self.techniques) if "ticket" in records.get(t.name, {})]
        if not drawn:
            raise TaskError(
                "the trial has no ticket: it was not trained with schedule lottery_ticket (rung above 0)"
            )
        before, technique = self.techniques[: drawn[-1]], self.techniques[drawn[-1]]
        rewind = records[technique.name]["ticket"]["rewind"]
        known = ("architecture", *(other.name for other in before))
        context.structure = {name: records[name] for name in known if name in records}
        early = untrained(before, context, context.seed)
        if rewind["epochs"] > 0:
            rung = next(rung for rung, epochs in enumerate(self.spec.search.rungs) if epochs > 0)
            seed = 1000 * (rung + 1) + rewind["place"]
            self._descend(early, early, rewind["epochs"], seed, None)
        context.structure = records
        return technique.ticket(early, trained, context)

    def _quality(self, model: nn.Module) -> float:
        """The first objective that the task measures, of a float network on the validation split; larger is better."""
        metrics = evaluate_metrics(model.eval(), self.context.task, self.context.data.val)
        objective = next((o for o in self.spec.objectives if o.metric in metrics), None)
        if objective is None:
            return next(iter(metrics.values()))
        return metrics[objective.metric] * (-1 if objective.direction == "minimize" else 1)

    def _stretch(self, model: nn.Module, epochs: float, rung: int) -> None:
        """One stretch of training, a full learning-rate cycle; without epochs only BatchNorm is recalibrated."""
        if epochs <= 0:
            self._recalibrate(model)
            return
        trained = model
        for technique in self.techniques:
            trained = technique.wrap(trained, self.choices, self.context)

        def on_step(step: int, total: int) -> None:
            for technique in self.techniques:
                technique.on_step(model, step, total)

        self._descend(model, trained, epochs, 1000 * (rung + 1), on_step)

    def _recalibrate(self, model: nn.Module) -> None:
        """Mend the BatchNorm statistics of a network that was cut."""
        context = self.context
        if _shapes(model) != _shapes(context.reference):
            size, batches = context.settings.batch_size, RECALIBRATION_BATCHES
            recalibrate(model, context.data.train, batch_size=size, batches=batches, seed=context.seed)

    def _descend(
        self,
        model: nn.Module,
        trained: nn.Module,
        epochs: float,
        seed: int,
        on_step: StepHook | None,
    ) -> None:
        """One cycle of training of `trained`, which is `model` or shares its parameters."""
        context, choices = self.context, self.choices
        freeze(model, self.spec.train.freeze)
        kept = context.data.train
        for technique in self.techniques:
            kept = technique.train_on(kept, choices, context)

        def loss(outputs: Any, batch: Batch, value: torch.Tensor) -> torch.Tensor:
            for technique in self.techniques:
                value = technique.loss(outputs, batch, value, choices, context)
            return value

        usual = context.settings.learning_rate
        rate = self.request.learning_rate or choices.number("train.learning_rate", usual)
        with ExitStack() as watched:
            along = [
                parameter
                for technique in self.techniques
                for parameter in watched.enter_context(technique.watch(trained, choices, context))
            ]
            compiled = stretch(
                trained,
                context.task,
                replace(context.data, train=kept),
                epochs=epochs,
                settings=replace(context.settings, learning_rate=self._pace * rate),
                loss=loss,
                on_step=on_step,
                along=along,
                seed=context.seed + seed,
            )
        if compiled:
            context.structure["train"] = {"compiled": compiled}


def _shapes(model: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]
