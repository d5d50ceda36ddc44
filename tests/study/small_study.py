"""A small study for tests, on disk, with made-up evaluations: no model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.record import Evaluation, Request
from autoprune.space import Options, Range, Space, Value
from autoprune.spec import Spec, load_spec
from autoprune.study import Study

SPACE = Space(
    {
        "architecture.depth": Options((1, 2, 3), 3),
        "prune.a.ratio": Range(0.0, 0.75, 0.0),
        "quantize.a.weight_bits": Options((4, 8, 32), 32),
    }
)
BASELINE = {"accuracy": 90.0, "latency_ms": 2.0, "size_bytes": 1000.0}


def small_spec(**changes: Any) -> Spec:
    """A spec with three rungs, two objectives and a constraint on each."""
    fields = {
        "name": "small",
        "task": "digits",
        "constraints": ["accuracy >= baseline - 10", "size_bytes <= 90%"],
        "budget": {"trials": 30},
        "search": {"rungs": [0, 1, 3], "sampler": "random"},
    }
    return load_spec({**fields, **changes})


def new_study(folder: Path, /, **changes: Any) -> Study:
    """A study in a fresh folder."""
    return Study.create(folder, small_spec(**changes), SPACE, {"seconds": {}}, BASELINE)


def point(ratio: float = 0.0, depth: int = 3, bits: int = 8) -> dict[str, Value]:
    return {"architecture.depth": depth, "prune.a.ratio": ratio, "quantize.a.weight_bits": bits}


def finished(
    trial: int, rung: int, choices: dict[str, Value], accuracy: float, latency: float, size: float = 500.0
) -> Evaluation:
    """A finished evaluation that read every choice."""
    metrics = {"accuracy": accuracy, "latency_ms": latency, "size_bytes": size}
    return Evaluation(trial, rung, "finished", choices, metrics, read=dict(choices), seconds={"total": 1.5})


def add(study: Study, accuracy: float, latency: float, *, size: float = 500.0, ratio: float = 0.0) -> int:
    """Record one more trial at rung 0; returns its number."""
    number, choices = len(study.trials), point(ratio)
    study.record(Request(number, 0, choices), finished(number, 0, choices, accuracy, latency, size))
    return number
