"""What shared weights are worth: do sub-networks rank as they do when trained alone, and what does a search save?

    python benchmarks/weight_sharing.py ranks --spec activities --json ranks.json
    python benchmarks/weight_sharing.py ranks --spec fashion_mnist --images 6000 --alone 4 --shared 8 --json ranks.json
    python benchmarks/weight_sharing.py search --spec cifar10_resnet --images 20000 --minutes 60 --json search.json

`ranks` trains one supernet, then `--networks` sub-networks by themselves for `--alone` epochs each, and prints the rank
correlation (Spearman) of their accuracies with those that they inherit, BatchNorm statistics estimated anew, on the
validation split, and with what training-free proxies say of them (`autoprune.proxies`). `search` runs the same spec
twice, with the supernet, and without it and without starting trials from others, each in a folder beside the JSON
file, with the same device-seconds and workers (the former's rungs are 0 and the first two of the latter's). It prints
after how many seconds the former, its supernet included, has the hypervolume that the latter ends with (in units of the
baseline of each, whose latency was measured in each). Both go on where they were killed. With `--workers 1`, `--only
alone` in one process and `--only shared` in another a machine of two cores has both at once; the command without
`--only` then prints what both have found. Wanted: 0.8 at 20 sub-networks; a tenth of the compute.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from less_data import Less, less
from scipy.stats import spearmanr

import autoprune
from autoprune.candidate import architecture_choices
from autoprune.proxies import scores
from autoprune.sandwich import train_supernet
from autoprune.spec import Spec, load_spec
from autoprune.study.evidence import rank_correlations, worthwhile
from autoprune.supernet import Supernet
from autoprune.task import Task, evaluate_metrics, example_inputs
from autoprune.train import TrainSettings, recalibrate, train


class Kept:
    """Results by key in a JSON file, written as they come.

    Args:
        path: the file, read if it is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, key: str, make: Any) -> Any:
        """What is known under a key, or what `make` gives."""
        if key not in self._found:
            self._found[key] = make()
            self._path.write_text(json.dumps(self._found, indent=1))
        return self._found[key]


def ranks(spec: Spec, task: Task, kept: Kept, arguments: argparse.Namespace) -> None:
    """Print how well inherited accuracies rank sub-networks."""
    data = task.data()
    settings = TrainSettings(**spec.train_settings())
    example, first = example_inputs(data), arguments.seed
    torch.manual_seed(first)
    supernet = Supernet(task, architecture_choices(spec, task), example)
    setting = f"{arguments.shared:g} epochs, {arguments.drawn} drawn"
    path = Path(arguments.json).with_suffix(f".{arguments.shared:g}-{arguments.drawn}.safetensors")
    if not path.is_file():
        reference, start = task.model(), time.perf_counter()
        train(reference, task, data.train, epochs=arguments.alone, settings=settings, seed=first)
        supernet.begin_with(reference)
        train_supernet(
            supernet,
            task,
            data,
            epochs=arguments.shared,
            networks=arguments.drawn,
            settings=settings,
            seed=first,
        )
        path.write_bytes(supernet.to_bytes())
        kept.get(f"seconds of {setting}", lambda: time.perf_counter() - start)
    supernet.read(path.read_bytes())
    inherited, alone, seconds, scored = [], [], [], []
    batch = next(iter(data.train.batches(64, shuffle=first)))
    for architecture in distinct(supernet, arguments.networks, first):
        name = json.dumps(architecture, sort_keys=True)

        def from_supernet(architecture: Any = architecture) -> float:
            model = task.model(**architecture)
            supernet.fill(model, architecture)
            recalibrate(model, data.train, batch_size=64, batches=16, seed=first)
            return evaluate_metrics(model, task, data.val)["accuracy"]

        def by_itself(seed: int, architecture: Any = architecture) -> list[float]:
            start = time.perf_counter()
            torch.manual_seed(seed)
            model = task.model(**architecture)
            train(model, task, data.train, epochs=arguments.alone, settings=settings, seed=seed)
            return [evaluate_metrics(model, task, data.val)["accuracy"], time.perf_counter() - start]

        seeds = range(first, first + arguments.seeds)
        found = [kept.get(f"alone {seed} {name}", partial(by_itself, seed)) for seed in seeds]
        alone.append([accuracy for accuracy, _ in found])
        seconds.append(np.mean([spent for _, spent in found]))
        torch.manual_seed(first)
        scored.append(scores(task.model(**architecture), task, batch))
        inherited.append(kept.get(f"inherited {setting} {name}", from_supernet))
        each = " ".join(f"{accuracy:6.2f}" for accuracy in alone[-1])
        size = f"{scored[-1]['params']:8.0f} parameters"
        print(f"{inherited[-1]:6.2f} inherited, {each} alone, {size}  {name}", flush=True)
    table, means = np.array(alone), np.mean(alone, axis=1)
    spent = kept.get(f"seconds of {setting}", lambda: float("nan"))
    print(f"rank correlation with the mean accuracy alone of {arguments.seeds} seeds, {len(means)} networks:")
    print(f"  inherited, {setting}: {spearmanr(inherited, means).statistic:.3f}; {_ceiling(table)}")
    rows = rank_correlations(scored, means.tolist())
    print(f"  {', '.join(f'{name} {value:.3f}' for name, value in rows.items())}")
    print(f"  proxies that beat the parameter count: {', '.join(worthwhile(rows)) or 'none'}")
    print(f"reference and supernet {spent:.0f} s; a network alone {np.mean(seconds):.0f} s on average")


def _ceiling(alone: np.ndarray[Any, Any]) -> str:
    """How well the accuracies of one seed rank networks by those of another, (networks, seeds): no more can be had."""
    if alone.shape[1] < 2:
        return "one seed alone says nothing of chance"
    pairs = [spearmanr(alone[:, i], alone[:, j]).statistic for i, j in combinations(range(alone.shape[1]), 2)]
    others = [
        spearmanr(alone[:, i], np.delete(alone, i, axis=1).mean(axis=1)).statistic
        for i in range(alone.shape[1])
    ]
    return f"one seed with another {np.mean(pairs):.3f}, one seed with the mean of the others {np.mean(others):.3f}"


def distinct(supernet: Supernet, count: int, seed: int) -> list[dict[str, Any]]:
    """So many different architectures, the smallest and the largest among them, as far as there are so many."""
    generator = np.random.default_rng(seed)
    found = [supernet.smallest, supernet.largest]
    for _ in range(100 * count):
        drawn = supernet.draw(generator)
        if drawn not in found:
            found.append(drawn)
        if len(found) >= count:
            break
    return found[:count]


def search(spec: Spec, arguments: argparse.Namespace) -> None:
    """Print what a search with shared weights needs to come where one without them ends."""
    given = spec.to_json()
    given["task"] = less(arguments.spec, arguments.images)
    given["budget"] = {"device_seconds": 60 * arguments.minutes}
    given["train"]["epochs"], given["seed"] = arguments.alone, arguments.seed
    base = Path(arguments.json).with_suffix("")
    rungs = [arguments.alone / 9, arguments.alone / 3, arguments.alone]
    # Trained by itself: not even from another trial's weights.
    alone = {**given, "search": {**given["search"], "rungs": rungs, "inherit": "reference"}}
    alone.pop("supernet", None)
    shared = {**given, "supernet": {"epochs": arguments.shared, "networks": arguments.drawn}}
    shared["search"] = {**given["search"], "rungs": [0.0, *rungs[:-1]]}
    curves = {}
    for name, fields in {"alone": alone, "shared": shared}.items():
        if arguments.only not in (None, name):
            continue
        folder = Path(f"{base}-{name}")
        study = autoprune.resume(folder) if folder.is_dir() else autoprune.search(fields, run=folder)
        curves[name] = study.hypervolume_history()
        print(
            f"{name}: hypervolume {study.hypervolume():.4f} after {study.device_seconds:.0f} device-seconds, "
            f"{len(study.results)} trials",
            flush=True,
        )
    if arguments.only is not None:
        return
    _, whole, wanted = curves["alone"][-1]
    for share in (0.5, 0.9, 1.0):
        volume = share * wanted
        first = {name: _first(curve, volume) for name, curve in curves.items()}
        print(
            f"{share:.0%} of what training each ends with: alone after {first['alone']:.0f} s, shared weights after "
            f"{first['shared']:.0f} s, {first['shared'] / whole:.2f} of the whole search, supernet included"
        )


def _first(curve: list[tuple[int, float, float]], volume: float) -> float:
    """Seconds until a hypervolume is reached; NaN where it never is."""
    return next((at for _, at, reached in curve if reached >= volume), math.nan)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["ranks", "search"])
    parser.add_argument("--spec", default="activities")
    parser.add_argument("--architecture", type=json.loads, help="options in place of the spec's, as JSON")
    parser.add_argument("--images", type=int, help="of the training split; all by default")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--alone", type=float, default=10.0, help="epochs of a network by itself")
    parser.add_argument("--shared", type=float, default=20.0, help="epochs of the supernet")
    parser.add_argument("--drawn", type=int, default=2, help="networks drawn in each step")
    parser.add_argument("--minutes", type=float, default=60.0, help="device-minutes of each search")
    parser.add_argument("--workers", type=int, default=2, help="of each search")
    parser.add_argument("--only", choices=["alone", "shared"], help="one search; compares nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how often a network is trained by itself")
    parser.add_argument("--json", default="weight_sharing.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = load_spec(arguments.spec, workers=arguments.workers)
    if arguments.architecture is not None:
        given = spec.to_json()
        given["space"]["architecture"] = arguments.architecture
        spec = load_spec(given)
    if arguments.what == "ranks":
        task: Any = Less(arguments.spec, arguments.images)
        ranks(spec, task, Kept(Path(arguments.json)), arguments)
    else:
        search(spec, arguments)


if __name__ == "__main__":
    main()
