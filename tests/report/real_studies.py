"""Real studies for the tests of report and command line: made by hand, in a run folder, without training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from autoprune.record import Evaluation, Request
from autoprune.space import Options, Range, Space
from autoprune.spec import Spec, load_spec
from autoprune.study import Study

LAYERS = ("stem", "block.0", "block.1", "head")
WIDTHS = {"stem": 32, "block.0": 64, "block.1": 64, "head": 10}
BASELINE = {
    "accuracy": 98.4,
    "latency_ms": 0.42,
    "size_bytes": 1_240_000.0,
    "params": 309_000.0,
    "macs": 4.1e6,
    "bops": 4.2e9,
}
SPACE = Space(
    {
        "architecture.depth": Options((1, 2, 3), 3),
        **{f"prune.{layer}.ratio": Range(0.0, 0.8, 0.0) for layer in LAYERS[:3]},
        "prune.criterion": Options(("l1", "fpgm"), "l1"),
        **{f"quantize.{layer}.weight_bits": Options((4, 8, 32), 32) for layer in LAYERS},
        **{f"quantize.{layer}.activation_bits": Options((8, 32), 32) for layer in LAYERS},
    }
)


def make_spec(**changes: Any) -> Spec:
    """A spec with two objectives and two constraints, no space of its own."""
    given = {
        "name": "digits",
        "task": "digits",
        "constraints": ["accuracy >= baseline - 2.0", "size_bytes <= 60%"],
        "budget": {"trials": 60, "minutes": 5},
        "search": {"rungs": [0, 1, 3]},
    }
    return load_spec({**given, **changes})


def layer_rows(point: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """A table of layers as `cost.layer_table` gives it; at depth 1 a layer is missing."""
    point = point or SPACE.neutral()
    there = [layer for layer in LAYERS if layer != "block.1" or point["architecture.depth"] != 1]
    return [
        {
            "name": layer,
            "kind": "Conv2d",
            "channels": round(WIDTHS[layer] * (1 - point.get(f"prune.{layer}.ratio", 0.0))),
            "weight_bits": point[f"quantize.{layer}.weight_bits"],
            "activation_bits": point[f"quantize.{layer}.activation_bits"],
        }
        for layer in there
    ]


def new_study(folder: Path, spec: Spec | None = None) -> Study:
    """A study without trials, open for writing."""
    profile = {"layers": layer_rows(), "choices": SPACE.to_json(), "baseline": BASELINE}
    return Study.create(folder, spec or make_spec(), SPACE, profile, BASELINE)


def add_trials(study: Study, count: int, seed: int = 0) -> None:
    """Trials with figures that look like those of a search; every ninth fails, every tenth is rejected."""
    rng = random.Random(seed)
    for number in range(len(study.trials), len(study.trials) + count):
        point = {name: choice.at(rng.random()) for name, choice in SPACE.items()}
        rung = rng.choice((0, 0, 1, 2))
        evaluation = Evaluation(number, rung, "finished", point, figures(point, rung, rng), read=point)
        evaluation.structure, evaluation.seconds = {"layers": layer_rows(point)}, {"total": 0.5}
        sources = {"bops": "modelled: by hand", "energy_uj": "measured, and not among the metrics"}
        evaluation.measurement = {"sources": sources, "unstable": number % 2 == 1}
        if number % 9 == 8:
            evaluation.state, evaluation.reason, evaluation.metrics = (
                "failed",
                "train: ValueError: loss is nan",
                {},
            )
        elif number % 10 == 9:
            size = evaluation.metrics["size_bytes"]
            evaluation.state, evaluation.reason = "rejected", f"size_bytes <= 60% (got {size:.6g})"
        study.record(Request(number, rung, point), evaluation)


def figures(point: dict[str, Any], rung: int, rng: random.Random) -> dict[str, float]:
    """Metrics of a point: smaller is faster and less accurate, training helps."""
    kept = 1 - sum(point[f"prune.{layer}.ratio"] for layer in LAYERS[:3]) / 3
    bits = sum(point[f"quantize.{layer}.weight_bits"] for layer in LAYERS) / 4 / 32
    integer = sum(point[f"quantize.{layer}.activation_bits"] == 8 for layer in LAYERS) / 4
    lost = 6 * (1 - kept) ** 2 + 1.5 * (1 - bits) ** 3 - 0.6 * rung + rng.random()
    return {
        "accuracy": 98.4 - max(-0.3, lost),
        "latency_ms": 0.03 + 0.39 * kept * (1 - 0.5 * integer) * point["architecture.depth"] / 3,
        "size_bytes": round(1_240_000 * kept**2 * bits) + 4000.0,
        "params": round(309_000 * kept**2),
        "macs": 4.1e6 * kept**2,
        "bops": 4.2e9 * kept**2 * bits,
    }
