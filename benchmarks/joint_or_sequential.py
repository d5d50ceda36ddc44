"""Is it better to search architecture, pruning and bits at once, or one after the other, each tuned alone?

    python benchmarks/joint_or_sequential.py --spec fashion_mnist --minutes 30 --folder runs/joint_fashion
    python benchmarks/joint_or_sequential.py --spec cifar10_resnet --minutes 240 --folder runs/joint_cifar

Both get the same device-minutes, supernets included. The joint search spends them on the whole space. The sequential
one has three stages of a third each: the architecture alone; then ratios of the network that came of it (exported, with
its weights); then bits of what came of that. Each search wants accuracy alone and has its limit on latency as a hard
constraint, the one asked for by `--latency`, a share of the baseline's. Where eight bits are twice as fast, each
stage goes a third of the way there; on a processor without VNNI, where bits alone gain an eighth, the architecture goes
half of the way and ratios the rest. A stage hands on its most accurate candidate within its limit. Candidates of a
stage are trained through the spec's rungs; the joint search has one more, three times as long, so that its best are
trained as long as what three stages hand on. The uncompressed reference is trained beside the budget, for either.

Prints for each seed the accuracy of the candidate that is most accurate within the limit on the validation split, there
and on the test split, as the exported file; then the mean difference on the test split and its standard error. Wanted:
joint above sequential by more than two standard errors over three seeds. `--images`, `--epochs` and `--rungs` shorten
training.
Each search has a folder of its own and goes on where it was killed. With `--workers 1 --only joint` in one process and
`--only sequential` in another, which waits for the baseline of the first, a machine of two cores has both at once; the
command without `--only` then prints what both have found.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from less_data import less

import autoprune
from autoprune.errors import RunFolderError, SearchFailed
from autoprune.spec import load_spec
from autoprune.targets.processor import adds_bytes_exactly

Fields = Mapping[str, Any]

STAGES = ("architecture", "prune", "quantize")
PATIENCE = 3600  # seconds to wait for the other process
# Of the share of latency that is asked for, by stage.
POWERS = (1 / 3, 2 / 3, 1.0) if adds_bytes_exactly() else (0.5, 1.0, 1.0)


def searched(fields: Fields, folder: Path) -> Any:
    """The study of a search, new or taken up again; one that found nothing has no best trial."""
    there = (folder / "study.journal").is_file()
    try:
        return autoprune.resume(folder) if there else autoprune.search(fields, run=folder)
    except SearchFailed:
        return autoprune.open_study(folder)


def begun(folder: Path) -> Any:
    """The study of a search that another process may be about to begin; the program ends where none does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(RunFolderError):
            return autoprune.open_study(folder)
        time.sleep(5)
    raise SystemExit(
        f"nobody began a search in {folder} for {PATIENCE} s: run this with --only joint beside it"
    )


def best_of(study: Any, limit_ms: float) -> Any:
    """The most accurate trial within a limit; None where there is none."""
    try:
        return study.best(f"latency_ms <= {limit_ms:.6g}", maximize="accuracy")
    except SearchFailed:
        return None


def judged(study: Any, limit_ms: float) -> tuple[float, float]:
    """Accuracy of the best trial within a limit on the validation and, exported, on the test split; NaN for none."""
    best = best_of(study, limit_ms)
    if best is None:
        return math.nan, math.nan
    artifact = study.folder / "export" / str(best.number)
    if not artifact.is_dir():
        autoprune.export(best, artifact)
    test = json.loads((artifact / "metrics.json").read_text())["export"]["accuracy"]
    return float(best.metrics["accuracy"]), float(test)


def changed(base: Fields, minutes: float, seed: int, limit: str, **fields: Any) -> dict[str, Any]:
    """The spec of one search, for accuracy within a limit on latency."""
    asked = {
        "objectives": {"accuracy": "maximize"},
        "budget": {"device_seconds": 60 * minutes},
        "seed": seed,
        "constraints": [f"latency_ms <= {limit}"],
    }
    made = {**base, **asked, **fields}
    options = made["space"].get("architecture", {})
    if not any(len(values) > 1 for values in options.values()):
        made.pop("supernet", None)
    return made


def sequential(
    base: Fields, minutes: float, seed: int, limits: list[float], folder: Path
) -> tuple[float, float]:
    """What comes of three stages (see `judged`); NaN where one of them found nothing within its own limit."""
    space, changes = base["space"], dict[str, Any]()
    rest = {name: part for name, part in space.items() if name not in STAGES}
    for stage, limit in zip(STAGES, limits, strict=True):
        fields = changed(base, minutes, seed, f"{limit:.6g}", space={**rest, stage: space[stage]}, **changes)
        study = searched(fields, folder / stage)
        best = best_of(study, limit)
        if best is None or stage == STAGES[-1]:
            break
        network = folder / f"after {stage}"
        if not network.is_dir():
            autoprune.export(best, network)
        task = {**base["task"], "model": str(network.resolve())}
        changes = {"task": task, "train": {**base["train"], "epochs": 0}}
    return judged(study, limit) if stage == STAGES[-1] else (math.nan, math.nan)


def main() -> None:
    """Run all searches and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", default="fashion_mnist")
    parser.add_argument("--images", type=int, help="of the training split; all by default")
    parser.add_argument("--minutes", type=float, default=30.0, help="device-minutes of a joint search")
    parser.add_argument("--latency", type=float, default=0.4, help="the limit, as a share of the baseline's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/joint_or_sequential"))
    parser.add_argument("--only", choices=["joint", "sequential"], help="one side of it; prints nothing")
    parser.add_argument("--epochs", type=float, help="of references and supernets, in place of the spec's")
    parser.add_argument("--rungs", type=float, nargs="+", help="in place of the spec's")
    arguments = parser.parse_args()
    base = load_spec(arguments.spec, workers=arguments.workers).to_json()
    base["task"] = less(arguments.spec, arguments.images)
    if arguments.epochs is not None:
        for part in ("train", "supernet"):
            if part in base:
                base[part]["epochs"] = arguments.epochs
    if arguments.rungs is not None:
        base["search"]["rungs"] = arguments.rungs
    gains = []
    for seed in arguments.seeds:
        folder = arguments.folder / str(seed)
        rungs = base["search"]["rungs"]
        longer = {"search": {**base["search"], "rungs": [*rungs, len(STAGES) * rungs[-1]]}}
        limit = f"{100 * arguments.latency:g}%"
        if arguments.only != "sequential":
            searched(changed(base, arguments.minutes, seed, limit, **longer), folder / "joint")
        if arguments.only == "joint":
            continue
        study = begun(folder / "joint")
        limits = [study.baseline["latency_ms"] * arguments.latency**power for power in POWERS]
        other = sequential(base, arguments.minutes / 3, seed, limits, folder)
        if arguments.only == "sequential":
            continue
        joint = judged(study, limits[2])
        gains.append(joint[1] - other[1])
        print(
            f"seed {seed}, within {limits[2]:.4f} ms: joint {joint[0]:.2f} % (test {joint[1]:.2f}), "
            f"sequential {other[0]:.2f} % (test {other[1]:.2f})",
            flush=True,
        )
    if arguments.only is not None:
        return
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else math.nan
    print(
        f"joint - sequential, test: {np.mean(gains):+.2f} points, standard error {error:.2f} ({len(gains)} seeds)"
    )


if __name__ == "__main__":
    main()
