"""How well the profile's model of latency ranks whole networks that it has not seen, on this machine.

    .venv/bin/python benchmarks/latency_model.py [--spec digits] [--weights FILE] [--points 50] [--seed 1]
        [--target onnxruntime] [--json FILE]

A table of layers is measured, and their sum fitted to twenty whole networks, as every search with a full profile does
it, each in a moment. Then fifty other networks, drawn over the whole space, are measured twice, as long as
the trials of a search are, and compared with what was predicted: rank correlation (Spearman) and relative error. What
one measurement of the same networks says of the other is the ceiling. Nothing is trained. Latencies mean little on a
machine that others work on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantized_accuracy import Alone
from scipy.stats import spearmanr

from autoprune.evaluate import Evaluator
from autoprune.search.points import check_points
from autoprune.search.preview import make_preview
from autoprune.search.prices import LATENCY, Prices
from autoprune.space import Space
from autoprune.spec import load_spec

WANTED = 0.97


class WithoutDamage(Alone):
    """One evaluator; of damage, which costs time and tells nothing of latency, it knows none."""

    def call(self, method: str, *arguments: Any) -> Any:
        """What it answers."""
        return 0.0 if arguments[:1] == ("damage",) else super().call(method, *arguments)


def main() -> int:
    """Measure, predict, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", default="digits")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the networks that are predicted")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--multiple", type=int, default=4, help="of channels; 16 is what specs ask for")
    parser.add_argument("--json", type=Path, help="where to keep what was measured and predicted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = load_spec(options.spec).to_json()
    if options.weights is not None:
        given["task"] = {"use": given["task"]["use"], "weights": str(options.weights.resolve())}
    target = {"use": options.target, "channel_multiple": options.multiple}
    space_of = {part: given["space"][part] for part in ("architecture", "prune", "quantize")}
    changes: dict[str, Any] = {"space": space_of, "target": target, "constraints": []}
    changes["train"] = {**given["train"], "epochs": 0}
    spec = load_spec({**given, **changes, "search": {"rungs": [0], "profile": "full"}})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOPRUNE_CACHE"] = folder  # of layers that were measured before, on another day
        evaluator = Evaluator(spec)
        evaluator.attach_data(None)
        evaluator.attach_reference(evaluator.train_reference())
        described = evaluator.describe()
        made = {**described, "baseline": {"macs": 0.0}}
        preview = make_preview(WithoutDamage(evaluator), spec, made)
    if "rank_correlation" not in preview:
        print(f"no model of latency was made: {preview.get('reason', 'too little could be measured')}")
        return 1
    space, prices = Space.from_json(described["choices"]), Prices(preview["prices"])
    points = list(check_points(space, options.points, seed=options.seed))
    predicted = np.array([prices(point)[LATENCY] for point in points])
    rounds = [[evaluator.foresee("time_point", point, False) for point in points] for _ in range(2)]
    first, second = (np.array([np.nan if ms is None else ms for ms in one]) for one in rounds)
    known = np.isfinite(first) & np.isfinite(second)
    truth = (first + second)[known] / 2
    correlation = float(spearmanr(predicted[known], truth).statistic)
    error = np.abs(predicted[known] / truth - 1)
    print(
        f"{options.spec} on {options.target}: {known.sum()} networks of {truth.min():.3f} to {truth.max():.3f} ms; "
        f"rank correlation of prediction and measurement {correlation:.3f} (wanted {WANTED}), of two measurements "
        f"{spearmanr(first[known], second[known]).statistic:.3f}; relative error {np.median(error):.1%} (median), "
        f"{np.quantile(error, 0.9):.1%} (nine of ten); left-out networks of the profile itself: "
        f"{preview['rank_correlation']:.3f}"
    )
    if options.json:
        rows = {"points": points, "predicted": predicted.tolist(), "measured": rounds}
        options.json.write_text(json.dumps({**rows, "prices": preview["prices"]}), encoding="utf-8")
    return 0 if correlation >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
