"""Is it better to search architecture, pruning and bits at once, or one after the other, each tuned alone?

    python benchmarks/joint_or_sequential.py --spec fashion_mnist --data fashion_mnist.py:fashion_mnist_data \\
        --minutes 30 --seeds 0 1 2 --folder runs/joint_fashion
    python benchmarks/joint_or_sequential.py --spec cifar10_resnet --data cifar10.py:cifar10_data \\
        --minutes 240 --seeds 0 1 2 --folder runs/joint_cifar

Both get the same device-minutes. The joint search spends them on the whole space. The sequential one has three stages
of a third each: the architecture alone; then, with the best one fixed, ratios; then, on the network that came of it
(exported, with its weights), bits. A stage passes on its most accurate candidate within its limit on latency: the one
asked for by `--latency`, a share of the baseline's, in the end, its cube root and the square of that before.

Prints for each seed the validation accuracy of the best candidate within the limit, then the mean difference and its
standard error. Wanted: joint above sequential by more than two standard errors over three seeds. Each search has a
folder of its own and goes on where it was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import autoprune
from autoprune.errors import SearchFailed
from autoprune.spec import load_spec

Fields = Mapping[str, Any]


def searched(fields: Fields, folder: Path) -> Any:
    """The study of a search, new or taken up again; one that found nothing has no best trial."""
    there = (folder / "study.journal").is_file()
    try:
        return autoprune.resume(folder) if there else autoprune.search(fields, run=folder)
    except SearchFailed:
        return autoprune.open_study(folder)


def best_of(study: Any, limit_ms: float) -> Any:
    """The most accurate trial within a limit; None where there is none."""
    try:
        return study.best(f"latency_ms <= {limit_ms:.6g}", maximize="accuracy")
    except SearchFailed:
        return None


def changed(base: Fields, minutes: float, seed: int, **fields: Any) -> dict[str, Any]:
    """The spec of one search; without constraints, so that all are judged by the limit alone."""
    kept = {name: value for name, value in base.items() if name != "constraints"}
    made = {**kept, "budget": {"device_seconds": 60 * minutes}, "seed": seed, **fields}
    options = made["space"].get("architecture", {})
    if not any(len(values) > 1 for values in options.values()):
        made.pop("supernet", None)
    return made


def sequential(
    base: Fields, data: str, minutes: float, seed: int, limits: list[float], folder: Path
) -> float:
    """Accuracy within the limit after three stages; NaN where one of them found nothing within its own."""
    space = base["space"]
    rest = {name: part for name, part in space.items() if name not in ("architecture", "prune", "quantize")}
    stage = {**rest, "architecture": space["architecture"]}
    first = best_of(searched(changed(base, minutes, seed, space=stage), folder / "architecture"), limits[0])
    if first is None:
        return float("nan")
    fixed = {name: [first.choices[f"architecture.{name}"]] for name in space["architecture"]}
    stage = {**rest, "architecture": fixed, "prune": space["prune"]}
    second = best_of(searched(changed(base, minutes, seed, space=stage), folder / "prune"), limits[1])
    if second is None:
        return float("nan")
    network = folder / "pruned"
    if not network.is_dir():
        autoprune.export(second, network)
    task = {"use": "classification", "model": str(network.resolve()), "data": data}
    stage = {**rest, "quantize": space["quantize"]}
    train = {**base["train"], "epochs": 0}
    fields = changed(base, minutes, seed, space=stage, task=task, train=train)
    third = best_of(searched(fields, folder / "quantize"), limits[2])
    return float("nan") if third is None else float(third.metrics["accuracy"])


def main() -> None:
    """Run all searches and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", default="fashion_mnist")
    parser.add_argument("--data", default="fashion_mnist.py:fashion_mnist_data")
    parser.add_argument("--minutes", type=float, default=30.0, help="device-minutes of a joint search")
    parser.add_argument("--latency", type=float, default=0.4, help="the limit, as a share of the baseline's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/joint_or_sequential"))
    arguments = parser.parse_args()
    base = load_spec(arguments.spec, workers=arguments.workers).to_json()
    gains = []
    for seed in arguments.seeds:
        folder = arguments.folder / str(seed)
        study = searched(changed(base, arguments.minutes, seed), folder / "joint")
        whole = study.baseline["latency_ms"]
        limits = [whole * arguments.latency**power for power in (1 / 3, 2 / 3, 1.0)]
        best = best_of(study, limits[2])
        joint = float("nan") if best is None else float(best.metrics["accuracy"])
        other = sequential(base, arguments.data, arguments.minutes / 3, seed, limits, folder)
        gains.append(joint - other)
        print(
            f"seed {seed}: joint {joint:.2f} %, sequential {other:.2f} %, within {limits[2]:.4f} ms",
            flush=True,
        )
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("nan")
    print(
        f"joint - sequential: {np.mean(gains):+.2f} points, standard error {error:.2f} ({len(gains)} seeds)"
    )


if __name__ == "__main__":
    main()
