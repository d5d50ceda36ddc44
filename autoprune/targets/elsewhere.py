"""A runtime on a device somewhere else in the cluster: measured there and nowhere else, modelled where it is not there.

    target: {use: onnxruntime, resource: pi4}

Nodes that have the device offer Ray's custom resource of that name. The candidate is built and validated by the runtime
of the worker; its files and an example go to such a node, as bytes with their hash, and are timed there, one at a time.
Who reaches the nodes is not known here: `attach` gives a function that asks one (`cluster.devices`).

What networks took there before is kept (`LatencyTable`), and so the device has a model: so much for each call of a
layer, each multiply-accumulate and each byte, for floats and for integers, fitted to whole networks. Where no node has
the device, latency is what that model says; and while too few networks are known, what the worker's own processor takes
in its place. Either is marked as modelled. The two never mix with measurements in one search.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autoprune.errors import TargetError
from autoprune.space import Value
from autoprune.targets.device_table import as_row, features_of, fitted, left_out
from autoprune.targets.latency_table import LatencyTable
from autoprune.targets.target import Measurement, Runnable, Target

if TYPE_CHECKING:
    from torch import nn

    from autoprune.targets.stopwatch import Stopwatch
    from autoprune.tensors import Inputs

LATENCY = "latency_ms"
MEASURED, MODELLED = "measured", "modelled"
LEAST_NETWORKS, MOST_NETWORKS = 8, 500  # that a model is fitted to
RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Job:
    """What is sent to a device.

    Attributes:
        files: name -> content, the first one to be opened.
        inputs: of the model, by name.
        settings: of the `Stopwatch` there.
        is_brief: measure in a quarter of the time.
        digest: of files and inputs, as they were sent.
    """

    files: Mapping[str, bytes]
    inputs: Arrays
    settings: Mapping[str, Any]
    is_brief: bool
    digest: str

    @classmethod
    def of(cls, files: Mapping[str, bytes], inputs: Arrays, settings: Mapping[str, Any], brief: bool) -> Job:
        """A job that can be checked where it arrives."""
        return cls(dict(files), dict(inputs), dict(settings), brief, _digest(files, inputs))


Ask = Callable[[str, Job], Measurement]
"""(resource, job) -> what a device of that resource measured. Raises TargetError, `Absent` where none answers."""


class Absent(TargetError):
    """No node has the device any more."""


def timed(job: Job) -> Measurement:
    """Do a job, here, on the device.

    Raises:
        TargetError: it is not what was sent, or cannot be measured.
    """
    if _digest(job.files, job.inputs) != job.digest:
        raise TargetError("the files that arrived at the device are not those that were sent")
    return _stopwatch(json.dumps(dict(job.settings), sort_keys=True)).time(
        job.files, job.inputs, brief=job.is_brief
    )


@cache
def _stopwatch(settings: str) -> Stopwatch:
    """The stopwatch of a process, whose own process stays warm between jobs."""
    from autoprune.targets.stopwatch import Stopwatch

    return Stopwatch(**json.loads(settings))


def _digest(files: Mapping[str, bytes], inputs: Arrays) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    for name, array in inputs.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


class Runtime(Target, Protocol):
    """A target whose files can be timed on another machine as well."""

    stopwatch: Stopwatch
    """Times them."""

    def machine_key(self) -> str:
        """What measurements here depend on."""
        ...


class Built:
    """A candidate in the runtime here, with what the model of the device wants to know of it."""

    def __init__(self, made: Runnable, features: list[float]) -> None:
        self.files, self.run, self.features = made.files, made.run, features
        self._made = made

    def __getattr__(self, name: str) -> Any:
        """What else the runtime says, such as how a file was exported."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._made, name)


class Elsewhere:
    """A runtime of this machine, measured on a device that is not.

    Args:
        runtime: builds candidates, and computes accuracies with them.
        resource: the custom resource of Ray's that nodes with the device offer.

    Raises:
        TargetError: the name is none.
    """

    def __init__(self, runtime: Runtime, resource: object) -> None:
        if not isinstance(resource, str) or not NAME.fullmatch(resource) or resource in RAYS_OWN:
            raise TargetError(
                f"target.resource: got {resource!r}, expected the name of a custom resource of Ray's, such as pi4"
            )
        if len(precisions := getattr(runtime, "precisions", ())) > 1:
            raise TargetError(
                f"target.precision: got {', '.join(precisions)}, expected one where there is a resource"
            )
        self.resource, self._runtime = resource, runtime
        self.weight_bits, self.activation_bits = runtime.weight_bits, runtime.activation_bits
        self.channel_multiple, self.measures = runtime.channel_multiple, ("energy_uj",)
        self._settings = runtime.stopwatch.settings
        self._ask: Ask | None = None
        self._may_stand_in = False
        self._table = LatencyTable(self, "networks")
        self._model = Model.of(self._table.known)

    def attach(self, ask: Ask | None, known: Mapping[str, float] | None) -> None:
        """Say how latency is found out in this search.

        Args:
            ask: reaches a device; None: it is modelled.
            known: what the model is fitted to, as `known` gives it, in place of what is known on this machine. The
                runtime here stands in for a device of which too little is known.
        """
        self._ask, self._may_stand_in = ask, ask is None and known is not None
        if known is not None:
            self._model = Model.of(known)

    @property
    def known(self) -> dict[str, float]:
        """What networks took on the device, by what the model wants to know of them; as plain data."""
        return dict(list(self._table.known.items())[-MOST_NETWORKS:])

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why the runtime cannot run these choices, None when it can."""
        return self._runtime.supports(choices)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate in the runtime here.

        Raises:
            ModelError: the runtime cannot carry it.
        """
        return Built(self._runtime.build(model, example), network_features(model, example))

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """Latency on the device, or what is modelled of it; `sources` says which.

        Raises:
            TargetError: no device answers any more, or it cannot measure the candidate; or it cannot be asked from
                here, and too little is known of it for a model.
        """
        return self._latency(runnable, example, brief=False)

    def measure_briefly(self, runnable: Runnable, example: Inputs) -> Measurement:
        """The same in a quarter of the time."""
        return self._latency(runnable, example, brief=True)

    def machine_key(self) -> str:
        """The device, runtime and threads in a few letters; another key where it is modelled by what is here."""
        words = f"{self.resource} {json.dumps(self._settings, sort_keys=True)}"
        key = f"{self.resource}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
        return f"{key}-{self._model.key}-{self._runtime.machine_key()}" if self._may_stand_in else key

    def _latency(self, runnable: Runnable, example: Inputs, *, brief: bool) -> Measurement:
        from autoprune.targets.interface import arrays

        if not isinstance(runnable, Built):
            raise TargetError(
                f"a device elsewhere measures what was built for it, not {type(runnable).__name__}"
            )
        if self._ask is not None:
            try:
                return self._measured(self._ask, runnable, arrays(example), brief=brief)
            except Absent:
                self._model = Model.of(
                    self._table.known
                )  # of the same device, with what was measured up to now
                if brief or not self._model.is_fitted:
                    raise
        if self._model.is_fitted:
            source = f"{MODELLED}: {self.resource} as of {self._model.stated}"
            return Measurement(
                self._model(runnable.features), spread=self._model.error, sources={LATENCY: source}
            )
        if not self._may_stand_in:
            raise TargetError(
                f"target.resource: latency is measured on nodes with {self.resource}, which cannot be asked from here, "
                f"and {self._model.stated} are too few for a model ({LEAST_NETWORKS} are needed)"
            )
        found = self._runtime.stopwatch.time(runnable.files, arrays(example), brief=brief)
        source = f"{MODELLED}: of {self.resource} {self._model.stated}; the worker's processor stands in"
        return replace(found, figures={}, sources={LATENCY: source})

    def _measured(self, ask: Ask, runnable: Built, inputs: Arrays, *, brief: bool) -> Measurement:
        found = ask(self.resource, Job.of(runnable.files, inputs, self._settings, brief))
        if not brief:  # which are of single layers, and noisier
            self._table.put(json.dumps(runnable.features), found.latency_ms)
        return replace(
            found, sources={**found.sources, LATENCY: f"{MEASURED} on a node with {self.resource}"}
        )


class Model:
    """What a network takes on a device, by a sum over what its layers do.

    Args:
        features: of networks that were measured there, (N, F); see `network_features`.
        truth: milliseconds of each, (N,).

    Attributes:
        error: median relative error on networks left out of the fit; 1 while there are too few to tell.
    """

    def __init__(self, features: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> None:
        self.is_fitted = len(truth) >= LEAST_NETWORKS
        self._weights = fitted(features, truth) if self.is_fitted else np.zeros(features.shape[-1])
        self.error = float(np.median(left_out(features, truth))) if self.is_fitted else 1.0
        self.stated = f"{len(truth)} networks measured there before"
        if self.is_fitted:
            self.stated += f", median error {100 * self.error:.1f} % on networks left out"
        self.key = hashlib.sha256(features.tobytes() + truth.tobytes()).hexdigest()[:8]

    @classmethod
    def of(cls, known: Mapping[str, float]) -> Model:
        """The model of what `Elsewhere.known` gave; entries that are none are passed over."""
        found = []
        for text, milliseconds in known.items():
            try:
                features = np.array(json.loads(text), dtype=float)
            except (ValueError, TypeError):
                continue
            if features.shape == (FEATURES,) and np.isfinite(features).all() and 0 < milliseconds < np.inf:
                found.append((features, milliseconds))
        if not found:
            return cls(np.zeros((0, FEATURES)), np.zeros(0))
        return cls(np.array([one for one, _ in found]), np.array([value for _, value in found]))

    def __call__(self, features: list[float]) -> float:
        return max(float(np.array(features) @ self._weights), 1e-6)


FEATURES = 10


def network_features(model: nn.Module, example: Inputs) -> list[float]:
    """What the layers of a deployed network do (see `features_of`): those in floats, then those in integers."""
    from autoprune.deployed.shapes import layer_shapes

    sums = np.zeros((2, FEATURES // 2))
    for shape in layer_shapes(model, example):
        row = as_row(shape)
        sums[int(row.activation_bits < 32)] += features_of(row)
    return [float(value) for value in sums.ravel()]


def elsewhere_of(target: Any) -> list[Elsewhere]:
    """Those of a search's targets that are measured on other nodes."""
    parts = getattr(target, "targets", {"": target})
    return [one for one in parts.values() if isinstance(one, Elsewhere)]
