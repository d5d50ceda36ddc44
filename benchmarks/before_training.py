"""ResNet-20 on CIFAR-10 cut to two budgets before any gradient step, BatchNorm recalibrated: accuracy and seconds.

    AUTOPRUNE_DATA=FOLDER .venv/bin/python benchmarks/before_training.py --weights FILE [--trials 4 6]

Searches widths alone (`prune`), within a limit on the multiply-accumulates, with a profile made anew (`--keep-cache`
takes what an earlier run has left). Chooses by 2,000 examples that are not tested on, and prints the test accuracy of
the chosen network, exported. Seconds are those of the search: from its call to its return, workers and profile
included. FastNAS of NVIDIA ModelOpt 0.47.0 came to 70.0 % at 57.2 MFLOPs in 42 s and to 40.3 % at 40.1 MFLOPs in 91 s,
from the same weights, by as many examples, on two threads (FLOPs are twice the multiply-accumulates).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import autoprune

MFLOPS = (57.2, 40.1)
WANTED = (80.0, 60.0)
FASTNAS = (70.0, 40.3)
SECONDS = (42.0, 91.0)
TRIALS = (4, 6)
VALIDATION = 2000 / 50000


def spec_for(weights: Path, mflops: float, trials: int, profile: str) -> dict[str, object]:
    """The search: widths of all groups, no training, one limit."""
    return {
        "name": "before_training",
        "task": {"use": "cifar10", "weights": str(weights.resolve()), "validation": VALIDATION},
        "space": {"prune": {"ratio": [0.0, 0.75], "criterion": ["taylor"]}},
        "train": {"epochs": 0},
        "objectives": {"accuracy": "maximize"},
        "constraints": [f"macs <= {round(mflops * 1e6 / 2)}"],
        "budget": {"trials": trials},
        "search": {"rungs": [0], "profile": profile},
        "cluster": {"workers": 2},
    }


def test_accuracy(run: Path) -> tuple[float, float, int]:
    """Test accuracy and MFLOPs of the best trial by validation, exported, and how many were tried."""
    study = autoprune.open_study(run)
    best = study.best(maximize="accuracy")
    metrics = json.loads((autoprune.export(best) / "metrics.json").read_text(encoding="utf-8"))
    finished = study.status()["trials"]["finished"]
    return metrics["export"]["accuracy"], 2 * best.metrics["macs"] / 1e6, finished


def main() -> int:
    """Search both budgets and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--trials", type=int, nargs=2, default=TRIALS)
    parser.add_argument("--profile", choices=["full", "costs"], default="full")
    parser.add_argument("--keep-cache", action="store_true")
    options = parser.parse_args()
    reached = True
    cases = zip(MFLOPS, WANTED, FASTNAS, SECONDS, options.trials, strict=True)
    for mflops, wanted, theirs, seconds, trials in cases:
        with tempfile.TemporaryDirectory() as folder:
            if not options.keep_cache:
                os.environ["AUTOPRUNE_CACHE"] = str(Path(folder, "cache"))
            start = time.perf_counter()
            prepared: list[float] = []

            def note(kind: str, _: object, start: float = start, prepared: list[float] = prepared) -> None:
                if kind == "started":
                    prepared.append(time.perf_counter() - start)

            run = Path(folder, "run")
            spec = spec_for(options.weights, mflops, trials, options.profile)
            autoprune.search(spec, run=run, on_event=note)
            took = time.perf_counter() - start
            accuracy, flops, tried = test_accuracy(run)
        reached &= accuracy >= wanted and took <= seconds
        print(
            f"≤ {mflops} MFLOPs: {accuracy:.2f} % on test at {flops:.1f} MFLOPs, {took:.0f} s (profile and start "
            f"{prepared[0]:.0f} s), {tried} candidates; wanted ≥ {wanted:g} % in ≤ {seconds:g} s, FastNAS {theirs:g} %",
            flush=True,
        )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
