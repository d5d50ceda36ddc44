"""One candidate: build → prune → distill → quantize → measure.

`Evaluator` is what every worker holds: task, data, reference and target, loaded once. It turns requests into
evaluations, one at a time, and knows nothing of studies, samplers or clusters: call it in a notebook and it does
the same as on a hundred machines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import nn

from autoprune import cost
from autoprune.candidate import (
    architecture_choices,
    bits_of,
    finalized,
    make,
    restore,
    save_checkpoint,
    weights_of,
)
from autoprune.clock import Clock
from autoprune.compress import techniques_of
from autoprune.compress.store import coding_of
from autoprune.compress.technique import Context
from autoprune.cost.energy import SOURCE as ENERGY_SOURCE
from autoprune.deployed import deploy, stored_bytes
from autoprune.description import description, unrunnable
from autoprune.errors import AutopruneError, NoNetwork, RunFolderError, SpecError, TaskError, raised
from autoprune.foresight import SAMPLE, Foresight, Sample
from autoprune.frozen import freeze, unmatched
from autoprune.inheritance import heir_of
from autoprune.record import Evaluation, Request
from autoprune.sandwich import train_supernet
from autoprune.space import Choices, Value
from autoprune.space.precision import FLOAT_BITS, in_full_precision
from autoprune.spec import Spec
from autoprune.stretch import stretch
from autoprune.structure.parametrize import fold_parametrizations, make_model
from autoprune.supernet import Supernet
from autoprune.targets import Measurement, Runnable, Target, load_targets
from autoprune.targets.elsewhere import Ask, elsewhere_of
from autoprune.targets.target import (
    OWN_CHOICES,
    Priced,
    configured,
    price,
)
from autoprune.task import (
    ArraySplit,
    Data,
    Task,
    check_task,
    evaluate_metrics,
    example_inputs,
    load_task,
)
from autoprune.tensors import Inputs
from autoprune.train import TrainSettings, train
from autoprune.training import Training

SIZE, ENERGY, LATENCY = "size_bytes", "energy_uj", "latency_ms"
MEASURED = "measured on the machine that searched"
TARGET = "target"
PROBE_STEPS = 4
HARMLESS_BITS, COMPARED = 8, 1000  # bits that hardly change anything; examples that tell what fewer do


class Evaluator:
    """Task, data, reference, target and techniques of one search, in one process.

    Args:
        spec: the validated spec.
        task: a ready task object; None loads the one that the spec names.
        max_seconds: end each stretch of training after so much time; results then depend on the machine.

    `attach_data` and `attach_reference` must have been called before `evaluate`.

    Raises:
        UnresolvedReference, TaskError, TargetError: the spec names something that is not there or does not work.
    """

    def __init__(self, spec: Spec, task: Task | None = None, max_seconds: float | None = None) -> None:
        self.spec = spec
        self.task: Task = task or load_task(spec.task.use, spec.folder, spec.task.arguments)
        self.target: Target = load_targets(spec)
        self.techniques = techniques_of(spec)
        on_gpu = spec.cluster.has_gpus and torch.cuda.is_available()
        device: Literal["cpu", "cuda"] = "cuda" if on_gpu else "cpu"
        self.settings = TrainSettings(**spec.train_settings(), device=device, max_seconds=max_seconds)
        self._data: Data | None = None
        self._reference: nn.Module | None = None
        self._supernet: Supernet | None = None
        self.baseline: dict[str, float] = {}  # metrics of the uncompressed network, once they are known
        self._measured: dict[str, Measurement] = {}
        self._foresight: Foresight | None = None
        self._scored: dict[Any, Any] = {}  # units of networks before training, for all candidates

    # -- what is loaded once -------------------------------------------------------------------------------------

    def load_data(self) -> Data:
        """The task's data, checked. Arrays in it may be handed to other workers of the node without a copy."""
        try:
            data = self.task.data()
        except AutopruneError:
            raise
        except Exception as error:
            raise TaskError(f"the task's data() {raised(error)}") from error
        check_task(self.task, data)
        for technique in self.techniques:
            technique.check(self.task, data)
        return data

    def shareable_data(self) -> Data | None:
        """The data if it lies in arrays, which all workers of a node can read in one place; None if it does not."""
        data = self.load_data()
        splits = (data.train, data.val, data.test)
        return data if all(isinstance(split, ArraySplit) for split in splits) else None

    def attach_data(self, data: Data | None) -> None:
        """Use these splits; None loads them here."""
        self._data = data if data is not None else self.load_data()

    def attach_reference(self, weights: bytes) -> None:
        """Use these weights (safetensors bytes) as the reference: baseline, teacher and starting point."""
        model = make_model(self.task, {})
        try:
            model.load_state_dict(load_tensors(weights))
        except SafetensorError as error:
            raise RunFolderError(f"reference.safetensors is damaged: {error}") from error
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RunFolderError(f"reference.safetensors does not fit the task's model: {reason}") from error
        self._reference = model.eval().requires_grad_(False)

    def attach_baseline(self, metrics: dict[str, float]) -> None:
        """Use these figures of the uncompressed network wherever a constraint is relative to them."""
        self.baseline = metrics

    def attach_devices(self, ask: Mapping[str, Ask], known: Mapping[str, Mapping[str, float]]) -> None:
        """Say how the latency on devices elsewhere in the cluster is found out.

        Args:
            ask: resource -> who measures there; where there is none, latency is modelled.
            known: resource -> what is known of the device, see `targets.elsewhere`.
        """
        for one in elsewhere_of(self.target):
            one.attach(ask.get(one.resource), known.get(one.resource))

    def known_devices(self) -> dict[str, dict[str, float]]:
        """What is known on this machine of devices elsewhere, by their resource."""
        return {one.resource: one.known for one in elsewhere_of(self.target)}

    @property
    def data(self) -> Data:
        """The splits in use."""
        if self._data is None:
            raise RuntimeError("attach_data comes first")
        return self._data

    @property
    def reference(self) -> nn.Module:
        """The uncompressed trained network."""
        if self._reference is None:
            raise RuntimeError("attach_reference comes first")
        return self._reference

    def train_reference(self) -> bytes:
        """Train the task's own model for the spec's epochs (none: it is taken as pretrained); its weights.

        Raises:
            SpecError: a pattern in `train.freeze` names nothing.
            TaskError: the task cannot be trained.
        """
        torch.manual_seed(self.spec.seed)
        model, epochs = self.task.model(), self.spec.train.epochs
        if problems := unmatched(model, self.spec.train.freeze):
            raise SpecError(problems)
        freeze(model, self.spec.train.freeze)
        if epochs > 0:
            try:
                stretch(
                    model, self.task, self.data, epochs=epochs, settings=self.settings, seed=self.spec.seed
                )
            except AutopruneError:
                raise
            except Exception as error:  # of the task: model, loss and data are called here as they came
                raise TaskError(f"training the uncompressed network {raised(error)}") from error
        fold_parametrizations(model)
        return weights_of(model)

    def train_supernet(self) -> tuple[bytes, float]:
        """Train the weights that all architectures share, from the reference's; they, and the seconds it took.

        Raises:
            SpecError: nothing about the architecture is searched.
            ModelError: the architectures cannot share weights; the message names them.
            TaskError: it does not fit the memory, or cannot be trained.
        """
        clock = Clock()
        asked = self.spec.supernet
        if asked is None:
            raise RuntimeError("the spec has no supernet")
        with clock.time("supernet"):
            supernet = self._new_supernet()
            supernet.begin_with(self.reference)
            train_supernet(
                supernet,
                self.task,
                self.data,
                epochs=asked.epochs,
                networks=asked.networks,
                settings=self.settings,
                seed=self.spec.seed,
            )
        return supernet.to_bytes(), clock.seconds()["total"]

    def attach_supernet(self, weights: bytes) -> None:
        """Start architectures other than the reference's from these shared weights."""
        self._supernet = self._new_supernet()
        self._supernet.read(weights)

    def _new_supernet(self) -> Supernet:
        options = architecture_choices(self.spec, self.task)
        if not any(len(choice.values) > 1 for choice in options.values()):
            raise SpecError(
                ["space.architecture: got no options, expected some, which share the supernet's weights"]
            )
        torch.manual_seed(self.spec.seed)
        return Supernet(self.task, options, self.example)

    # -- one candidate -------------------------------------------------------------------------------------------

    def evaluate(self, request: Request, costs_only: bool = False) -> Evaluation:
        """The evaluation that answers a request. What goes wrong in it is recorded, not raised.

        Args:
            request: what is asked.
            costs_only: techniques choose by a few examples, and a few are validated.
        """
        choices, context, clock = Choices(request.choices), self.context(request.repeat), Clock()
        if costs_only:
            context.data = self._few
        result = Evaluation(request.trial, request.rung, "finished", request.choices, seed=context.seed)
        result.repeat = request.repeat
        try:
            self._evaluate(request, choices, context, result, clock)
        except NoNetwork as error:
            result.state, result.reason = "rejected", str(error)[:2000]
        except Exception as error:
            result.state, result.reason = "failed", f"{clock.stage}: {type(error).__name__}: {error}"[:2000]
        result.read, result.structure, result.seconds = choices.read, context.structure, clock.seconds()
        return result

    def _evaluate(
        self, request: Request, choices: Choices, context: Context, result: Evaluation, clock: Clock
    ) -> None:
        if reason := self.target.supports(request.choices):
            result.state, result.reason = "rejected", reason
            return
        with clock.time("build"):
            model, rung = self._start(request, choices, context)
            result.metrics.update(self.price(model, choices))
        if broken := self._broken(result.metrics, context):
            result.state, result.reason = "rejected", broken
            return
        if self.spec.search.proxy is not None and request.checkpoint is None and not request.repeat:
            with clock.time("score"):
                result.scores = self.foresee("scores", context.structure["architecture"]) or {}
        with clock.time("train"):
            trained = Training(self.spec, self.techniques, request, choices, context).run(model, rung)
            if trained is not model:
                result.metrics.update(self.price(trained, choices))
            result.checkpoint = save_checkpoint(trained, context.structure, request.rung)
        with clock.time("deploy"):
            deployed, runnable = self.deploy(trained, choices, context)
            context.structure["layers"] = cost.layer_table(deployed, self.example)
            result.metrics.update(self.stored(deployed, context))
        with clock.time("validate"):
            result.metrics.update(evaluate_metrics(runnable.run, self.task, context.data.val))
            result.unquantized = self._unquantized(trained, runnable, result, context)
        with clock.time("measure"):
            measurement = self._measure(runnable, context, anew=request.repeat > 0)
            result.metrics.update(measurement.metrics)
            result.measurement = {**measurement.to_json(), "sources": self.sources(measurement)}

    def _unquantized(
        self, trained: nn.Module, rounded: Runnable, result: Evaluation, context: Context
    ) -> dict[str, float]:
        """The task's metrics without rounding to few bits, by what that does to some examples, if 32 is an option."""
        space, record = self.spec.space.quantize, context.structure.get("quantize", {})
        is_coarse = any(bits["weight_bits"] < HARMLESS_BITS for bits in record.get("layers", {}).values())
        offered = () if space is None else space.weight_bits.values
        if record.get("quantizer") != "ptq" or result.repeat or not is_coarse or FLOAT_BITS not in offered:
            return {}
        other = self.context()
        other.structure.update(context.structure)
        _, whole = self.deploy(trained, Choices(in_full_precision(result.choices)), other)
        before, after = (evaluate_metrics(one.run, self.task, self._few.val) for one in (whole, rounded))
        return {name: result.metrics[name] + value - after[name] for name, value in before.items()}

    @cached_property
    def _few(self) -> Data:
        parts = {"train": (self.data.train, SAMPLE), "val": (self.data.val, COMPARED)}
        return replace(
            self.data, **{n: Sample(part, few, self.spec.seed) for n, (part, few) in parts.items()}
        )

    def _measure(self, runnable: Runnable, context: Context, *, anew: bool) -> Measurement:
        """The latency of a candidate; what has the same structure as one before is measured again if `anew` is set, or
        that measurement was not steady."""
        structure = json.dumps(context.structure["layers"], sort_keys=True)
        key = f"{context.structure['architecture']}{structure}{context.structure.get(TARGET)}"
        known = self._measured.get(key)
        if anew or known is None or known.unstable:
            known = self._measured[key] = context.target.measure(runnable, self.example)
        return known

    def sources(self, measurement: Measurement) -> dict[str, str]:
        """Latency and energy, on each target, -> whether they were measured or modelled, and by what."""
        several = [f"@{name}" for name in self.spec.target] if len(self.spec.target) > 1 else []
        usual = {ENERGY: ENERGY_SOURCE, **({LATENCY: MEASURED} if measurement.rounds else {})}
        found = {f"{metric}{at}": source for at in ("", *several) for metric, source in usual.items()}
        return {**found, **measurement.sources}

    def deploy(self, model: nn.Module, choices: Choices, context: Context) -> tuple[nn.Module, Runnable]:
        """The trained candidate as it is shipped: the module with its quantizers, and what the target runs."""
        deployed = finalized(self.techniques, model, choices, context)
        return deployed, self.configure(choices, context).build(deployed, self.example)

    def configure(self, choices: Choices, context: Context) -> Target:
        """The target as its own choices set it, which are recorded."""
        target = configured(self.target, choices)
        if own := {name: value for name, value in choices.read.items() if name.startswith(OWN_CHOICES)}:
            context.structure[TARGET] = own
        context.target = target
        return target

    def price(self, model: nn.Module, choices: Choices) -> dict[str, float]:
        """What is known before any training: params, macs, bops, size_bytes, energy_uj, and what the target models."""
        bits = bits_of(self.techniques, model, choices)
        counted = cost.count(model, self.example, bits)
        if len(self.spec.target) > 1:
            counted |= {f"{ENERGY}@{name}": counted[ENERGY] for name in self.spec.target}
        target = configured(self.target, choices)
        if not isinstance(target, Priced):
            return counted
        return {**counted, **price(target, deploy(model, bits, self.example), self.example)}

    def stored(self, deployed: nn.Module, context: Context) -> dict[str, float]:
        """The size of the weight file where that depends on the weights: what `price` says is the most it can be."""
        coding = coding_of(context.structure)
        return {} if coding == "none" else {SIZE: float(stored_bytes(deployed, coding))}

    def context(self, repeat: int = 0) -> Context:
        """A fresh context for one candidate, or for its re-validation of this number, which draws otherwise."""
        seed = self.spec.seed + repeat
        context = Context(
            self.task, self.data, self.target, self.reference, seed=seed, settings=self.settings
        )
        context.shared, context.scored = self._supernet, self._scored
        return context

    @property
    def example(self) -> Inputs:
        """Inputs of batch size 1, in the form that the network takes."""
        return example_inputs(self.data)

    def _start(self, request: Request, choices: Choices, context: Context) -> tuple[nn.Module, int]:
        """The candidate before training, and the last rung that its weights were trained to (-1: none)."""
        if request.checkpoint is not None:
            return restore(request.checkpoint, self.techniques, context)
        heir = heir_of(request.donor, self.techniques, choices, context)
        return make(self.techniques, choices, context) if heir is None else heir, -1

    def ticket(self, request: Request) -> nn.Module:
        """The winning lottery ticket of a candidate, from its checkpoint (see `training.Training.ticket`)."""
        choices, context = Choices(request.choices), self.context(request.repeat)
        return Training(self.spec, self.techniques, request, choices, context).ticket()

    def _broken(self, metrics: Mapping[str, float], context: Context) -> str:
        """Which constraints on computable costs do not hold, in words; empty when all do."""
        measured = set(getattr(self.target, "measures", ()))  # on the finished candidate
        if coding_of(context.structure) != "none":
            measured.add(SIZE)  # depends on the weights as trained
        broken = [
            f"{constraint} (got {metrics[constraint.metric]:.6g})"
            for constraint in self.spec.constraints
            if self.baseline and constraint.metric in metrics and constraint.metric not in measured
            if not constraint.is_met(metrics, self.baseline)
        ]
        return "; ".join(broken)

    # -- what is known before the first trial --------------------------------------------------------------------

    def unrunnable(self) -> list[str]:
        """What the spec asks of the target that it cannot do, a line each: bits, and layers of the task's model."""
        model = make_model(self.task, {}).eval()
        context = Context(self.task, self.data, self.target, model, self.spec.seed, settings=self.settings)
        return unrunnable(self.spec, context, self.techniques, self.example)

    def describe(self) -> dict[str, Any]:
        """The space of this task on this target, as plain data; see `description`."""
        return description(self.spec, self.task, self.data, self.target, self.techniques)

    def foresee(self, question: str, *arguments: Any) -> Any:
        """What is asked before the first trial; see the methods of `foresight.Foresight`."""
        if self._foresight is None:
            self._foresight = Foresight(self.techniques, self.context)
        return getattr(self._foresight, question)(*arguments)

    def price_point(self, point: dict[str, Value]) -> dict[str, float]:
        """The exact costs of a point, untrained."""
        choices, context = Choices(point), self.context()
        context.shared = None  # whatever the weights are
        model, _ = self._start(Request(-1, 0, point), choices, context)
        return self.price(model, choices)

    def seconds_per_epoch(self) -> float:
        """What one epoch on the uncompressed network takes here, from a few steps of our loop."""
        steps = len(self.data.train) / self.settings.batch_size
        model = make_model(self.task, {})
        model.load_state_dict(self.reference.state_dict())
        freeze(model, self.spec.train.freeze)
        share = min(1.0, PROBE_STEPS / steps)
        summary = train(
            model, self.task, self.data.train, epochs=share, settings=self.settings, seed=self.spec.seed
        )
        return summary.seconds / share
