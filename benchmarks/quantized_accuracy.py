"""How well the accuracy of quantized sub-networks is foretold from full precision, and what a few quantized ones add.

    python benchmarks/quantized_accuracy.py --spec digits --shared 8 --json quantized.json

APQ (Wang et al. 2020) predicts quantized accuracy from evaluations in full precision, corrected by a few quantized
ones. Here the guided sampler's belief does both: it is given the damage of each value of each choice beforehand (the
profile), and learns what is left from trials. One supernet is trained; points are drawn from the whole space,
architecture, ratios and bits, and each is evaluated untrained, as it is and in full precision. Then the belief is
fitted to some of these (also as in a search, each trial of which tells both: `search.beside`), and its prediction for
the `--held-out` quantized points that it has not seen is compared with what they really have (Spearman's rank
correlation, mean and deviation of `--draws` draws of the fitted ones). It goes on where it was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from weight_sharing import Kept

from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.search.foreknown import foreknown
from autoprune.search.preview import make_preview
from autoprune.search.samplers.belief import Belief, Beside, Results
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Known
from autoprune.search.samplers.proposals import anywhere
from autoprune.search.samplers.surrogate import Surrogate
from autoprune.space import Space, Value
from autoprune.space.precision import in_full_precision
from autoprune.spec import Spec, load_spec

Point = dict[str, Value]
SETUPS = [  # so many in full precision, and so many others quantized; none: both are known of each
    *((0, 10), (0, 20), (0, 40)),
    *((40, 5), (40, 10), (40, 20)),
    *((10, 0), (20, 0), (40, 0)),
]


class Alone:
    """One evaluator, as workers are asked."""

    size = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def call(self, method: str, *arguments: Any) -> Any:
        """What it answers."""
        return getattr(self._evaluator, method)(*arguments)

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """What it answers to each."""
        return [self.call(method, *arguments) for arguments in calls]


def spec_of(name: str, shared: float, bits: Sequence[int]) -> Spec:
    """A ready spec without training: shared weights, ratios and bits."""
    given = load_spec(name).to_json()
    space = {part: given["space"][part] for part in ("architecture", "prune")}
    space["prune"] = {"ratio": [0.0, 0.5], "criterion": "l1"}
    space["quantize"] = {"weight_bits": [*bits, 32], "activation_bits": [8, 32]}
    target = {"use": "onnxruntime", "rounds": 2, "block_ms": 1.0, "channel_multiple": 4}
    changes = {"space": space, "target": target, "constraints": [], "supernet": {"epochs": shared}}
    return load_spec({**given, **changes, "search": {"rungs": [0], "profile": "full"}})


def measured(
    spec: Spec, kept: Kept, weights: Path, count: int
) -> tuple[Any, list[tuple[Point, float, float]]]:
    """The profile, and points with their accuracies: quantized, and in full precision."""
    evaluator = Evaluator(spec)
    evaluator.attach_data(None)
    for part, train, attach in (
        ("reference", evaluator.train_reference, evaluator.attach_reference),
        ("supernet", lambda: evaluator.train_supernet()[0], evaluator.attach_supernet),
    ):
        path = weights.with_suffix(f".{part}")
        if not path.is_file():
            path.write_bytes(train())
        attach(path.read_bytes())
    described = evaluator.describe()
    space = Space.from_json(described["choices"])

    def accuracy(point: Point) -> float:
        found = evaluator.evaluate(Request(-1, 0, point))
        return float(found.metrics.get("accuracy", "nan"))

    def profiled() -> Any:
        baseline = evaluator.evaluate(Request(-1, 0, space.neutral())).metrics
        made = {**described, "baseline": baseline}
        return {**made, "preview": make_preview(Alone(evaluator), spec, made)}

    profile = kept.get("profile", profiled)
    encoding = Encoding(space.distributions())
    points = [encoding.point(row) for row in anywhere(encoding, count, np.random.default_rng(spec.seed))]
    rows = []
    for number, point in enumerate(points):
        whole = in_full_precision(point)
        both = kept.get(f"point {number}", lambda: [accuracy(point), accuracy(whole)])  # noqa: B023
        if np.isfinite(both).all():
            rows.append((point, *both))
    return profile, rows


def correlation(
    encoding: Encoding,
    known: Known,
    trials: Sequence[tuple[Point, float]],
    beside: Sequence[tuple[Point, float]],
    held_out: Sequence[tuple[Point, float]],
) -> float:
    """Rank correlation of what is believed of points after some trials, and what these tell beside, with what is."""

    def arrays(given: Sequence[tuple[Point, float]]) -> tuple[Any, Any]:
        return np.array([encoding.row(point) for point, _ in given]), -np.array(
            [[found] for _, found in given]
        )

    rows, losses = arrays(trials)
    none = np.zeros((len(rows), 0))
    results = Results(
        rows, losses, none, np.ones(len(rows), dtype=bool), Beside(*arrays(beside)) if beside else None
    )
    surrogate = Surrogate(encoding.blocks, known.figures(rows).shape[1])
    generator = np.random.default_rng(0)
    for _ in range(3):  # as in a search, where kernels are learned again and again
        belief = Belief(encoding, known, results, [surrogate], tune=True, generator=generator)
    means, _ = belief.predict(arrays(held_out)[0])
    return float(spearmanr(-means[:, 0], [accuracy for _, accuracy in held_out]).statistic)


def main() -> None:
    """Measure what is missing, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", default="digits")
    parser.add_argument("--shared", type=float, default=8.0, help="epochs of the supernet")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8], help="of weights, beside 32")
    parser.add_argument("--points", type=int, default=120)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", default="quantized_accuracy.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec, path = spec_of(arguments.spec, arguments.shared, arguments.bits), Path(arguments.json)
    profile, rows = measured(spec, Kept(path), path, arguments.points)
    told = foreknown(spec, profile)
    encoding = Encoding(Space.from_json(profile["choices"]).distributions())
    quantized, whole = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    held = rows[: arguments.held_out]
    test = [(point, accuracy) for point, accuracy, _ in held]
    print(
        f"{len(rows)} points; quantized {np.quantile(quantized, [0.1, 0.5, 0.9]).round(1)} % (deciles 1, 5, 9),"
    )
    print(f"in full precision {np.quantile(whole, [0.1, 0.5, 0.9]).round(1)} %")
    print(f"their own accuracy in full precision: {spearmanr(whole, quantized).statistic:.3f}")
    priors: dict[str, Any] = {"with the profile": told.prior, "without": {}}
    alone = Known(encoding, told.prices, told.prior).prior(
        np.array([encoding.row(point) for point, _ in test])
    )
    print(f"the profile alone: {spearmanr(-alone, [accuracy for _, accuracy in test]).statistic:.3f}")
    for name, prior in priors.items():
        known = partial(Known, encoding, told.prices, prior)
        for full, few in SETUPS:
            found = [
                correlation(encoding, known(), *_drawn(rows[arguments.held_out :], full, few, draw), test)
                for draw in range(arguments.draws)
            ]
            what = f"{full} in full precision, {few} quantized" if few else f"{full} both ways"
            print(f"{name}, {what}: {np.mean(found):.3f} ± {np.std(found):.3f}", flush=True)


def _drawn(
    rows: Sequence[tuple[Point, float, float]], full: int, few: int, draw: int
) -> tuple[list[tuple[Point, float]], list[tuple[Point, float]]]:
    """Trials in full precision and quantized ones of other points; without `few`, what quantized ones tell beside."""
    order = np.random.default_rng(draw).permutation(len(rows))
    chosen = [rows[i] for i in order]
    floats = [(in_full_precision(point), whole) for point, _, whole in chosen[:full]]
    quantized = [(point, accuracy) for point, accuracy, _ in (chosen[::-1][:few] if few else chosen[:full])]
    return (floats + quantized, []) if few else (quantized, floats)


if __name__ == "__main__":
    main()
