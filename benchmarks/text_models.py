"""A text encoder on Banking77 and a character model on Tiny Shakespeare: how much faster at what quality?

    AUTOPRUNE_DATA=FOLDER .venv/bin/python benchmarks/text_models.py [--only banking77] [--minutes 30]
        [--epochs N] [--runs DIR]

FOLDER holds banking77_train.csv, banking77_test.csv and tinyshakespeare.txt (else they are downloaded). For each of the
two ready specs: trains the reference, searches for `--minutes` with two workers, exports the fastest candidate that
keeps the quality on the validation split, and prints its figures on the test split beside the uncompressed network.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import autoprune
from autoprune.report.live import live_view


@dataclass(frozen=True)
class Wanted:
    """What a search should reach: the metric of quality, how much of it may be lost, in words and on the test split."""

    name: str
    metric: str
    where: str
    faster: float = 2.0

    def is_kept(self, exported: float, baseline: float) -> bool:
        """Whether the exported model is good enough, on the test split."""
        if self.metric == "accuracy":
            return exported >= baseline - 1.0
        return exported <= 1.02 * baseline


WANTED = [
    Wanted("banking77", "accuracy", "accuracy >= baseline - 1.0"),
    Wanted("tinyshakespeare", "perplexity", "perplexity <= 102%"),
]


def search(wanted: Wanted, run: Path, minutes: float, epochs: float | None) -> None:
    """One search into `run`, or on in what is there already."""
    if run.exists():
        return
    train = {} if epochs is None else {"train": {"epochs": epochs}}
    with live_view() as view:
        autoprune.search(wanted.name, run=run, on_event=view, minutes=minutes, **train)


def figures(wanted: Wanted, run: Path) -> dict[str, float]:
    """Export the fastest candidate that keeps the quality; its figures on the test split."""
    chosen = autoprune.open_study(run).best(wanted.where, minimize="latency_ms")
    print(f"chosen: trial {chosen.number}, {chosen.metrics}", flush=True)
    folder = autoprune.export(chosen, run / "export" / str(chosen.number))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    exported, baseline = metrics["export"], metrics["baseline"]
    return {
        "trial": chosen.number,
        "faster": baseline["latency_ms"] / exported["latency_ms"],
        "smaller": baseline["size_bytes"] / exported["size_bytes"],
        wanted.metric: exported[wanted.metric],
        f"baseline {wanted.metric}": baseline[wanted.metric],
    }


def main() -> int:
    """Search, export, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[wanted.name for wanted in WANTED])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--epochs", type=float, help="of the reference, instead of those of the ready spec")
    parser.add_argument("--runs", type=Path, default=Path("runs/text_models"))
    options = parser.parse_args()
    reached = True
    for wanted in WANTED:
        if options.only in (None, wanted.name):
            run = options.runs / wanted.name
            search(wanted, run, options.minutes, options.epochs)
            row = figures(wanted, run)
            fine = row["faster"] >= wanted.faster and wanted.is_kept(
                row[wanted.metric], row[f"baseline {wanted.metric}"]
            )
            reached &= fine
            shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
            print(f"{wanted.name}: {shown}  {'reached' if fine else 'MISSED'}", flush=True)
            autoprune.report(run)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
