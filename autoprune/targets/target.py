"""The contract of a target: hardware and runtime on which candidates run and are measured.

`Target` is what every target has. What only some can do is a protocol of its own, and the functions below ask any
target for it: figures that are known before training (`Priced`), choices that belong to the target itself, such as
the reuse factor of a circuit or half precision (`Configurable`), values of these that go together (`Designing`), and
layers that it cannot run at all (`Selective`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autoprune.space import Choice, Choices, Value

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tensors import Inputs

OWN_CHOICES = "target."
"""What the names of a target's own choices start with."""


@dataclass(frozen=True)
class Measurement:
    """A latency and how far it can be trusted.

    Attributes:
        latency_ms: the value to compare by. Where it is measured here: candidate/reference ratio of minima over quiet
            rounds, times the reference's calibrated time.
        median_ms: median over all blocks, uncorrected.
        spread: relative difference of the two halves of the measurement.
        reference_ms: minimum of the fixed reference in the same rounds.
        rounds: how many rounds were measured; 0 of a modelled latency.
        load: the machine's 1-minute load average when it was measured.
        unstable: the spread stayed too large after measuring again, or too few rounds were quiet: the machine was
            too busy, or its clock throttles, to tell close candidates apart.
        figures: other metrics of one inference: `energy_uj`, `cycles`, ...
        sources: metric -> how it was got: `measured by RAPL`, `modelled: ...`.
    """

    latency_ms: float
    median_ms: float = 0.0
    spread: float = 0.0
    reference_ms: float = 0.0
    rounds: int = 0
    load: float = 0.0
    unstable: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Everything that an objective or a constraint can name."""
        return {"latency_ms": self.latency_ms, **self.figures}

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


class Runnable(Protocol):
    """A candidate in the form in which it is deployed."""

    files: dict[str, bytes]
    """File name -> content: what an artifact of this target holds (`model.onnx`)."""

    def run(self, inputs: Inputs) -> Any:
        """Outputs for a batch of inputs, in the process's own runtime.

        Takes torch tensors as the network does (one, a tuple of positional or a dict of keyword arguments), and
        returns torch tensors in the form in which the network returns them.
        """
        ...


class Target(Protocol):
    """What a target must be able to do. Write one in any file and name it `file.py:Name`."""

    weight_bits: tuple[int, ...]
    """Weight bit widths that are legal here."""
    activation_bits: tuple[int, ...]
    """Activation bit widths that are legal here."""
    channel_multiple: int
    """Channel counts that are a multiple of this run best; 1 when it does not matter."""

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why these choices cannot run here, None when they can. Cheap: nothing is built."""
        ...

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The model in this target's runtime.

        Args:
            model: in eval mode; quantized layers carry their quantizers (see compress.quantize).
            example: inputs of batch size 1, as the task's batches hold them.

        Raises:
            ModelError: the runtime cannot carry the model; the message names the operator or layer.
        """
        ...

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """Latency of one inference at batch size 1, undisturbed by other measurements on this host."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A target that knows figures of a candidate from its shapes and bits, before any training."""

    def price(self, model: nn.Module, example: Inputs) -> dict[str, float]:
        """Metrics of a deployed network by name; its weights and ranges do not matter."""
        ...


@runtime_checkable
class Configurable(Protocol):
    """A target with choices of its own."""

    def choices(self, model: nn.Module, example: Inputs) -> dict[str, Choice]:
        """What can be decided about this model here; names start with `target.`."""
        ...

    def configured(self, choices: Choices) -> Target:
        """This target as the choices set it; it reads those that matter."""
        ...


@runtime_checkable
class Designing(Protocol):
    """A configurable target that knows what is worth trying first."""

    def designs(self, model: nn.Module, example: Inputs) -> list[dict[str, Value]]:
        """Values of its own choices that go together, a handful, the best first."""
        ...


@runtime_checkable
class Selective(Protocol):
    """A target that cannot run every layer."""

    def problems(self, model: nn.Module, example: Inputs) -> list[str]:
        """One line for each layer or operation of a float network that cannot run here, by name."""
        ...


def price(target: Target, model: nn.Module, example: Inputs) -> dict[str, float]:
    """What a target knows of a deployed network before training; nothing where it models nothing."""
    return target.price(model, example) if isinstance(target, Priced) else {}


def own_choices(target: Target, model: nn.Module, example: Inputs) -> dict[str, Choice]:
    """The choices that belong to a target."""
    return target.choices(model, example) if isinstance(target, Configurable) else {}


def designs(target: Target, model: nn.Module, example: Inputs) -> list[dict[str, Value]]:
    """Values of a target's own choices that are worth trying first."""
    return target.designs(model, example) if isinstance(target, Designing) else []


def configured(target: Target, choices: Choices) -> Target:
    """A target as the choices set it."""
    return target.configured(choices) if isinstance(target, Configurable) else target


def problems_of(target: Target, model: nn.Module, example: Inputs) -> list[str]:
    """What of a float network a target cannot run, a line each."""
    return target.problems(model, example) if isinstance(target, Selective) else []


def unsupported_bits(
    name: str, choices: Mapping[str, Value], weight_bits: tuple[int, ...], activation_bits: tuple[int, ...]
) -> str | None:
    """Why the bits among some choices are not legal on a target, None when all are.

    Args:
        name: of the target, as the message has it.
        choices: a point.
        weight_bits, activation_bits: that are legal.
    """
    for choice, value in choices.items():
        for kind, legal in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
            if choice.startswith("quantize.") and choice.endswith(f".{kind}") and value not in legal:
                listed = ", ".join(map(str, legal))
                return f"{choice}: {name} has no {value}-bit {kind[:-5]}s; {listed} are legal"
    return None
