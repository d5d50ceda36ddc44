"""Samplers on a search that really trains: hypervolume of accuracy and latency by minutes of compute, seed by seed.

    .venv/bin/python benchmarks/search_training.py [--spec digits] [--samplers auto,tpe,nsga2,random,gp,sequential]
        [--minutes 3] [--of-ours 0.5] [--profile full] [--seeds 3] [--weights FILE] [--workers 2] [--json FILE]
        [--beside FILE ...] [--first-seed 0] [--export-from 90.47]

Every search has the same spec but for the sampler: space, rungs, stopping, evaluator and constraints. What can be
computed is checked before training for all of them, so that none trains what the spec forbids. Ours begins with its
profile, which counts; the others begin as their libraries do. Minutes are those of one processor: the driver, Ray and
its workers together, so that others who are at work on the machine favour nobody. They run from the call to the last
result, the start of Ray, the reference and the profile included.

`gp` is Optuna's Gaussian process. `sequential` is the pipeline that is done by hand: pruning ratios one after the
other from small to large, the same in all layers, trained in full; then eight bits, and four for weights, in all
layers of each network on the front; then the layers at both ends back in floating point, one by one.

`--spec cifar10_resnet20 --weights FILE` takes the published ResNet-20 (AUTOPRUNE_DATA names the folder of the data).
Prints hypervolume (as `autoprune status` counts it; one table compares one spec) after 10, 20, 30, 50, 70 and 100 %
of the minutes, and with how many times fewer ours reached what each rival has in the end. With one worker each, a
machine of two cores has several samplers at work at once, each in a process with a `--json` of its own; the last one,
or one with `--samplers ""`, compares them all by `--beside`.

`--export-from ACCURACY` exports the front of each search from the fastest point on, until one has this accuracy on the
test split, and prints its latency; after the minutes, and picked by the test split, for all samplers alike.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

import autoprune
from autoprune.pareto import front_mask
from autoprune.references import search_spaces_folder

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
OURS = "auto"
ELSEWHERE = {"gp": "optuna.samplers:GPSampler", "sequential": f"{Path(__file__).resolve()}:Sequential"}
RATIOS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
IDLE = 10  # minutes of the clock, for each of a processor, after which a search ends in any case
Curve = list[tuple[float, float]]


class Sequential(BaseSampler):
    """Prune, then quantize what was good, then give layers their precision back: points of a plan, by its stages."""

    def __init__(self) -> None:
        self._plan: Iterator[dict[str, Any]] | None = None
        self._point: dict[str, Any] = {}

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def before_trial(self, study: Any, trial: Any) -> None:
        self._plan = self._plan or self._planned(study)
        self._point = next(self._plan, {})

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        options = getattr(param_distribution, "choices", None)
        wanted = self._point.get(param_name, self._point.get(param_name.rpartition(".")[2]))
        if options is not None:
            return (
                wanted
                if wanted in options
                else options[-1]
                if 32 in options or True in options
                else options[0]
            )
        low, high = param_distribution.low, param_distribution.high
        return min(max(low if wanted is None else wanted, low), high)

    def _planned(self, study: Any) -> Iterator[dict[str, Any]]:
        yield from ({"ratio": ratio} for ratio in RATIOS)
        for params in self._good(study):
            for bits in (8, 4):
                yield {
                    **params,
                    **dict.fromkeys(_bits(params), 8),
                    **dict.fromkeys(_weight_bits(params), bits),
                }
        for params in self._good(study):
            layers = list(dict.fromkeys(name.rpartition(".")[0] for name in _bits(params)))
            for layer in (*layers[:2], *layers[-2:]):
                floating = {f"{layer}.weight_bits": 32, f"{layer}.activation_bits": 32}
                yield {**params, **dict.fromkeys(_bits(params), 8), **floating}

    def _good(self, study: Any) -> list[dict[str, Any]]:
        """What is on the front so far."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        signs = [-1.0 if d.name == "MAXIMIZE" else 1.0 for d in study.directions]
        if not done:
            return []
        front = front_mask(np.array([t.values for t in done]) * signs)
        return [dict(trial.params) for trial, good in zip(done, front, strict=True) if good]


def _bits(params: Mapping[str, Any]) -> list[str]:
    return [name for name in params if name.endswith("_bits")]


def _weight_bits(params: Mapping[str, Any]) -> list[str]:
    return [name for name in _bits(params) if name.endswith(".weight_bits")]


def spec_for(options: argparse.Namespace, sampler: str, seed: int) -> dict[str, Any]:
    """The spec of one search."""
    path = search_spaces_folder() / f"{options.spec}.yaml"
    spec: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if options.weights is not None:
        spec["task"] = {"use": spec["task"]["use"], "weights": str(options.weights.resolve())}
    ours = sampler == OURS
    spec["budget"] = {"minutes": IDLE * options.minutes}
    spec["search"] = {**spec["search"], "sampler": ELSEWHERE.get(sampler, sampler), "warm_start": ours}
    spec["search"] |= {"profile": options.profile} if ours else {"profile": "costs"}
    if sampler == "sequential":  # what is done by hand is trained in full
        spec["search"]["rungs"] = spec["search"]["rungs"][-1:]
    return {**spec, "seed": seed, "cluster": {**spec["cluster"], "workers": options.workers}}


def searched(spec: dict[str, Any], seconds: float, export_from: float | None) -> tuple[Curve, str]:
    """(seconds of a processor, hypervolume) after each result of one search, with nothing kept from before.

    And what `fastest` says of it, where an accuracy to export from is given.
    """
    start, curve = processor_seconds(), [(0.0, 0.0)]

    def note(kind: str, payload: Mapping[str, Any]) -> None:
        if kind == "evaluated":
            curve.append((processor_seconds() - start, float(payload["status"]["hypervolume"])))
            if curve[-1][0] > seconds:
                raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOPRUNE_CACHE"] = str(Path(folder) / "cache")
        with suppress(KeyboardInterrupt):
            autoprune.search(spec, run=Path(folder) / "run", on_event=note)
        return curve, "" if export_from is None else fastest(Path(folder) / "run", export_from)


def fastest(run: Path, accuracy: float) -> str:
    """The fastest point of a front whose exported file has an accuracy on the test split, in words."""
    found = "nothing"
    for trial in sorted(autoprune.open_study(run).front, key=lambda trial: trial.metrics["latency_ms"]):
        try:
            folder = autoprune.export(trial, run / "export" / str(trial.number))
        except autoprune.AutopruneError as error:
            print(f"trial {trial.number} is not exported: {error}", file=sys.stderr)
            continue
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        exported, baseline = metrics["export"], metrics["baseline"]
        found = f"{exported['accuracy']:.2f} % at {exported['latency_ms']:.4f} ms"
        found += f" ({baseline['accuracy']:.2f} % at {baseline['latency_ms']:.4f} ms uncompressed)"
        if exported["accuracy"] >= accuracy:
            return found
    return f"none of {accuracy} %; the slowest of its front has {found}"


def processor_seconds() -> float:
    """What this process and all below it have computed, those that have ended and were waited for included."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def reached(curve: Curve, seconds: float) -> float:
    """The hypervolume by then, in seconds of a processor."""
    return max(volume for at, volume in curve if at <= seconds)


def when(curve: Curve, volume: float) -> float | None:
    """The seconds at which a hypervolume was reached first."""
    return next((at for at, found in curve if found >= volume), None)


def _times(spent: float, own: float | None) -> str:
    """With how many times fewer seconds ours had what another one spent `spent` on."""
    if own is None:
        return "never"
    return f"{spent / own:.1f}×" if own else "from the start, for it has nothing"


def main() -> int:
    """Search, seed by seed, and print after each."""

    def listed(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", default="digits", help="a file of search_spaces/, without its ending")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--samplers", type=listed, default="auto,tpe,nsga2,random,gp,sequential")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--of-ours", type=float, default=1.0, help="share of the minutes that ours has")
    parser.add_argument("--profile", choices=["full", "costs"], default="full", help="that ours begins with")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--export-from", type=float, help="accuracy on the test split, in percent")
    parser.add_argument("--json", type=Path, help="where to keep all curves")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="what `--json` of others has kept")
    options = parser.parse_args()
    curves: dict[str, list[Curve]] = {sampler: [] for sampler in options.samplers}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for sampler in options.samplers:
            minutes = options.minutes * (options.of_ours if sampler == OURS else 1.0)
            curve, exported = searched(spec_for(options, sampler, seed), 60 * minutes, options.export_from)
            curves[sampler].append(curve)
            cells = [f"{reached(curve, 60 * options.minutes * share):.4f}" for share in SHARES]
            print(f"seed {seed} {sampler:10} {len(curve) - 1:4} evaluations ", *cells, exported, flush=True)
        if options.json:
            options.json.write_text(json.dumps(curves), encoding="utf-8")
    for path in options.beside:
        curves |= json.loads(path.read_text(encoding="utf-8"))
    for sampler, found in curves.items():
        ends = [curve[-1][1] for curve in found]
        print(f"{sampler:10} {np.mean(ends):.4f} ± {np.std(ends):.4f}", end="")
        if OURS in curves and sampler != OURS:
            times = [when(ours, end) for ours, end in zip(curves[OURS], ends, strict=True)]
            whole = [curve[-1][0] for curve in found]
            shown = [_times(spent, own) for spent, own in zip(whole, times, strict=True)]
            print("   ours is there in a fraction of its minutes:", ", ".join(shown), end="")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
