"""ResNet-20 on CIFAR-10 from the published weights: how much faster at what accuracy?

    AUTOPRUNE_DATA=FOLDER .venv/bin/python benchmarks/resnet20_cifar10.py --weights FILE [--minutes 30]
        [--finish-minutes 30] [--run DIR]

FOLDER holds cifar10_train.npz and cifar10_test.npz; FILE is the published checkpoint as safetensors. Searches for
`--minutes` and chooses a point for each row of `WANTED`. One is the published network in eight bits; the one that lost
blocks is trained for `--finish-minutes` more. Exports both, and prints test accuracy and latency beside the
uncompressed network, measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import autoprune
from autoprune.report.live import live_view

WANTED = [
    # faster than fp32, at least so accurate, which points qualify, whether the chosen one is trained on
    (2.0, 91.5, "latency_ms <= 47%", False),
    (2.5, 90.7, "latency_ms <= 39.5%", True),
]


def search_spec(weights: Path, minutes: float) -> dict[str, object]:
    """The ready spec with these weights and this budget."""
    import yaml

    from autoprune.references import search_spaces_folder

    spec = yaml.safe_load((search_spaces_folder() / "cifar10_resnet20.yaml").read_text(encoding="utf-8"))
    spec["task"] = {"use": "cifar10", "weights": str(weights.resolve())}
    spec["budget"] = {"minutes": minutes}
    return dict(spec)


def finish_and_export(run: Path, where: str, minutes: float) -> dict[str, float]:
    """Choose the most accurate point that qualifies, train it on, export it; its figures on the test split."""
    chosen = autoprune.open_study(run).best(where, maximize="accuracy")
    print(f"chosen: trial {chosen.number}, {chosen.metrics}", flush=True)
    if minutes > 0:
        chosen = autoprune.finish(chosen, minutes=minutes)
    folder = autoprune.export(chosen, run / "export" / str(chosen.number))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    exported, baseline = metrics["export"], metrics["baseline"]
    return {
        "trial": chosen.number,
        "faster": baseline["latency_ms"] / exported["latency_ms"],
        "accuracy": exported["accuracy"],
        "smaller": baseline["size_bytes"] / exported["size_bytes"],
        "baseline accuracy": baseline["accuracy"],
    }


def main() -> int:
    """Search, finish, export, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--finish-minutes", type=float, default=30)
    parser.add_argument("--run", type=Path, default=Path("runs/resnet20_cifar10"))
    options = parser.parse_args()
    if not options.run.exists():
        with live_view() as view:
            autoprune.search(search_spec(options.weights, options.minutes), run=options.run, on_event=view)
    reached = True
    for faster, accuracy, where, trained_on in WANTED:
        row = finish_and_export(options.run, where, options.finish_minutes if trained_on else 0)
        fine = row["faster"] >= faster and row["accuracy"] >= accuracy
        reached &= fine
        print(f"wanted ≥ {faster}× at ≥ {accuracy} %: {row}  {'reached' if fine else 'MISSED'}", flush=True)
    autoprune.report(options.run)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
