"""What crosses between the driver and its workers: a request, and the evaluation that answers it.

Both are plain data. A request never holds a study or a sampler; an evaluation is JSON but for the bytes of its
checkpoint, which the driver alone writes to disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from autoprune.space import Value

State = Literal["finished", "rejected", "failed"]
LOST = "lost"  # device-seconds of tries that came to nothing: a worker died, a node was lost
INHERITED = "inherited_from"  # the part of a structure that names the trial whose weights it started from


class Donor(NamedTuple):
    """A trial whose weights a new one starts from, in place of the reference's.

    Attributes:
        trial: its number.
        rung: that its weights were trained to.
        weights: its checkpoint; None where it is gone.
    """

    trial: int
    rung: int
    weights: bytes | None = None


@dataclass(frozen=True)
class Request:
    """One evaluation to be done.

    Attributes:
        trial: the trial's number in the study.
        rung: index into the rungs of the spec (0 is the cheapest).
        choices: the whole point.
        checkpoint: what the evaluation at the rung before returned, None to start from the reference.
        epochs: train for so many epochs instead of the rung's own (finishing a chosen candidate).
        learning_rate: and with this peak learning rate instead of the spec's.
        repeat: 0 for an evaluation of the search itself; its nth re-validation trains from the start, and draws
            everything from the spec's seed plus n.
        donor: what a new trial starts from, or is made anew from at its first rung that trains; None for the reference.
    """

    trial: int
    rung: int
    choices: dict[str, Value]
    checkpoint: bytes | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    repeat: int = 0
    donor: Donor | None = None


@dataclass
class Evaluation:
    """What came out of a request.

    Attributes:
        state: `finished`; `rejected` (a computable cost breaks a constraint, nothing was trained); `failed`.
        metrics: named numbers: the task's metrics on the validation split, latency_ms, size_bytes, params,
            macs, bops. A rejected one has those that are computed before training.
        read: the choices that were read; they identify the candidate.
        structure: realised structure as plain data: `architecture`, `groups`, `layers` (see compress).
        measurement: how the latency was measured: spread, median, load, rounds.
        seconds: device-seconds that the evaluation took, by stage (`train`, `measure`, ...), and `total`; beside that
            `lost`, what earlier tries of the same request took.
        reason: why it was rejected or failed.
        seed: what every random draw of the evaluation came from.
        repeat: of the request.
        unquantized: the task's metrics of the same network before its weights were rounded; empty where nothing was, or
            it was trained to be.
        scores: what training-free proxies say of the architecture, freshly made; empty where none were asked.
        is_poison: every worker that tried it died, so it is not to be tried again.
        checkpoint: the float weights to continue from (safetensors bytes), never stored in the study.
    """

    trial: int
    rung: int
    state: State
    choices: dict[str, Value]
    metrics: dict[str, float] = field(default_factory=dict)
    read: dict[str, Value] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    measurement: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    seed: int = 0
    repeat: int = 0
    unquantized: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    is_poison: bool = False
    checkpoint: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the checkpoint and the choices (the study keeps those as parameters)."""
        # Not `asdict`: it copies deeply, which is the dearest part of recording a result.
        kept = [field.name for field in fields(self) if field.name not in ("checkpoint", "choices")]
        return {name: getattr(self, name) for name in kept}
