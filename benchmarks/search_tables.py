"""Samplers on tables of real networks: normalised hypervolume by evaluations, without training anything.

    .venv/bin/python benchmarks/search_tables.py --table FILE.npz --choices KEY --accuracy KEY --latency KEY
        [--costs KEY,KEY] [--samplers auto,tpe,nsga2,gp,random,nni-tpe] [--budgets 20,50,100,200,400] [--seeds 10]
        [--in-flight 256] [--infeasible 0.9] [--rivals PYTHON] [--json]
    .venv/bin/python benchmarks/search_tables.py --time

A table is an npz file: choices (N, d) of small whole numbers, one row for each network; accuracy (N,), or (N, seeds)
whose mean is taken; latency (N,). Columns named by `--costs` are what can be computed without training: our sampler is
given them for any point, the others have no way to take them. The column of the latency may be among them.

The search maximizes accuracy and minimizes latency. Its hypervolume counts from the lower quartile of the table's
(feasible) accuracies and the 0.95 quantile of its latencies, and is divided by that of the table's own front. A
point that was evaluated before is answered from memory and is not counted, for any sampler.

`--in-flight N` keeps N evaluations under way on a simulated clock (log-normal durations); `--infeasible SHARE` sets a
limit on the latency that this share of the table exceeds, and counts feasible points only.
`--rivals` names the interpreter of an environment with Syne Tune and NePS; `rivals.py` says how to make it, and what
there is. `--time` measures suggestions at 100, 1,000 and 5,000 past trials of 60 choices and two objectives, without
constraints and with one on each objective, as real searches have.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parent))
from rivals import RIVALS, Rival

from autoprune.pareto import front_mask, hypervolume

Floats = NDArray[np.float64]
MOST_REPEATED = 200  # proposals in a row that are known already; then a random new point is taken
SUGGESTIONS = {100: 0.02, 1000: 0.05, 5000: 0.1}  # past trials -> seconds promised
LIMITS = {"no constraint": (), "two constraints": (0.25, 0.3)}  # of suggestions that are timed


@dataclass(frozen=True)
class Table:
    """Real networks: what was chosen, what it costs, how good it is.

    Attributes:
        choices: (N, d).
        losses: (N, 2), accuracy negated and latency.
        costs: name -> (N,).
        limit: the highest latency that is feasible.
    """

    choices: NDArray[np.int64]
    losses: Floats
    costs: Mapping[str, Floats]
    limit: float

    @cached_property
    def rows(self) -> dict[tuple[int, ...], int]:
        """Choices -> row."""
        return {tuple(choices): row for row, choices in enumerate(self.choices.tolist())}

    @cached_property
    def reference(self) -> Floats:
        """Where hypervolume ends, (2,)."""
        feasible = self.losses[self.losses[:, 1] <= self.limit]
        latency = min(np.quantile(self.losses[:, 1], 0.95), self.limit)
        return np.array([np.quantile(feasible[:, 0], 0.75), latency])

    @cached_property
    def best(self) -> float:
        """Hypervolume of the table's own front."""
        return hypervolume(self.losses[front_mask(self.losses)], self.reference)

    def space(self) -> dict[str, BaseDistribution]:
        """One categorical choice for each column."""
        columns = enumerate(self.choices.T)
        return {f"c{j}": CategoricalDistribution(tuple(np.unique(column).tolist())) for j, column in columns}

    def row(self, point: Mapping[str, Any]) -> int | None:
        """The network that a point describes; None when the table lacks it."""
        return self.rows.get(tuple(point.values()))

    def price(self, point: Mapping[str, Any]) -> dict[str, float]:
        """The costs of a point."""
        row = self.row(point)
        return {name: float(c.max() if row is None else c[row]) for name, c in self.costs.items()}

    def volume(self, evaluated: list[int]) -> float:
        """Hypervolume of some networks as a share of what the whole table has."""
        return hypervolume(self.losses[evaluated], self.reference) / self.best


def load(path: Path, options: argparse.Namespace) -> Table:
    """The table of the command line.

    Raises:
        SystemExit: the file lacks a column, a column has another length, or there is nothing to find.
    """
    with np.load(path, allow_pickle=False) as file:
        wanted = [options.choices, options.accuracy, options.latency, *options.costs]
        if missing := [name for name in wanted if name not in file]:
            raise SystemExit(f"{path}: no column {', '.join(missing)} (has {', '.join(file)})")
        columns = {name: np.asarray(file[name]) for name in wanted}
    accuracy = columns[options.accuracy].astype(float)
    accuracy = accuracy.mean(axis=1) if accuracy.ndim == 2 else accuracy
    latency = columns[options.latency].astype(float)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise SystemExit(f"{path}: columns of different lengths: {lengths}")
    table = Table(
        columns[options.choices].astype(np.int64),
        np.column_stack([-accuracy, latency]),
        {name: columns[name].astype(float) for name in options.costs},
        float(np.quantile(latency, 1.0 - options.infeasible)) if options.infeasible else float("inf"),
    )
    if table.best == 0.0:
        raise SystemExit(
            f"{path}: no feasible network is better than its quartiles, so none is worth a search"
        )
    return table


class Elsewhere(BaseSampler):
    """An optimizer in another environment, as Optuna asks samplers.

    Args:
        rival: that optimizer.
        table: says what there is to choose.
    """

    def __init__(self, rival: Rival, table: Table) -> None:
        self._rival, self._space = rival, table.space()
        self._asked: dict[int, tuple[int, dict[str, Any]]] = {}  # trial -> its number there, and the point

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        point = self._rival.ask()
        self._asked[trial.number] = len(self._asked), point
        return point

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return param_distribution.choices[0]

    def after_trial(self, study: Any, trial: Any, state: TrialState, values: Any) -> None:
        number, point = self._asked.get(trial.number, (-1, {}))  # a random point was not asked for
        if state == TrialState.COMPLETE and trial.params == point:
            self._rival.tell(number, [-values[0], values[1]])

    def close(self) -> None:
        """End the other process."""
        self._rival.close()


def sampler_named(name: str, table: Table, seed: int, python: str) -> BaseSampler:
    """A sampler of ours, of Optuna or from elsewhere, at the settings that did best."""
    from autoprune.search.samplers import make_sampler
    from autoprune.search.samplers.guided import GuidedSampler

    if name in ("auto", "guided"):
        return GuidedSampler(seed=seed, costs=table.price if table.costs else None)
    if name in RIVALS:
        return Elsewhere(Rival(python, name, {n: d.choices for n, d in table.space().items()}, seed), table)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=10)
    return make_sampler(name, seed)


def search(
    table: Table, sampler: BaseSampler, budgets: list[int], in_flight: int, seed: int
) -> dict[int, float]:
    """Hypervolume at each budget of evaluations."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    generator = np.random.default_rng(seed)
    space, limit = table.space(), table.limit
    clock, evaluated, known = 0.0, list[int](), set[int]()
    under_way: list[tuple[float, int, optuna.Trial]] = []
    found: dict[int, float] = {}
    total = min(max(budgets), len(table.choices))
    while len(evaluated) < total:
        while len(under_way) < in_flight and len(known) < total:
            trial, row = _propose(study, space, table, known, generator)
            known.add(row)
            heapq.heappush(under_way, (clock + float(generator.lognormal(0.0, 0.5)), row, trial))
        clock, row, trial = heapq.heappop(under_way)
        _tell(study, trial, table, row)
        evaluated.append(row)
        if len(evaluated) in budgets:
            found[len(evaluated)] = table.volume([r for r in evaluated if table.losses[r, 1] <= limit])
    return found


def _propose(
    study: optuna.Study,
    space: dict[str, BaseDistribution],
    table: Table,
    known: set[int],
    generator: np.random.Generator,
) -> tuple[optuna.Trial, int]:
    """A trial of a network that is not known yet, and its row."""
    for _ in range(MOST_REPEATED):
        trial = study.ask(space)
        row = table.row(trial.params)
        if row is not None and row not in known:
            return trial, row
        if row is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            _tell(study, trial, table, row)
    left = np.setdiff1d(np.arange(len(table.choices)), np.fromiter(known, int))
    row = int(generator.choice(left))
    study.enqueue_trial(dict(zip(space, table.choices[row].tolist(), strict=True)))
    return study.ask(space), row


def _tell(study: optuna.Study, trial: optuna.Trial, table: Table, row: int) -> None:
    loss, latency = table.losses[row]
    if np.isfinite(table.limit):
        trial.set_constraint("latency", float(latency / table.limit - 1.0))
    study.tell(trial, [-float(loss), float(latency)])


def measure_suggestions(make: Callable[[], BaseSampler], limits: Sequence[float]) -> dict[int, float]:
    """Mean seconds of a suggestion by past trials, each followed by its result.

    Args:
        make: a new sampler.
        limits: on the objectives, turned so that less is better; as many as there are constraints.
    """
    ratios: dict[str, BaseDistribution] = {f"prune.{i}.ratio": FloatDistribution(0.0, 0.8) for i in range(30)}
    bits = {f"quantize.{i}.weight_bits": CategoricalDistribution((4, 8, 32)) for i in range(30)}
    space = ratios | bits
    took = {}
    for past in SUGGESTIONS:
        generator = np.random.default_rng(0)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=make())
        study.add_trials([_finished(space, limits, generator) for _ in range(past)])
        seconds = []
        for _ in range(25):
            start = time.process_time()
            trial = study.ask(space)
            seconds.append(time.process_time() - start)
            values = _figures(trial.params)
            for name, violation in _violations(values, limits).items():
                trial.set_constraint(name, violation)
            study.tell(trial, values)
        took[past] = float(np.mean(seconds[3:]))
    return took


def _finished(
    space: Mapping[str, BaseDistribution], limits: Sequence[float], generator: np.random.Generator
) -> optuna.trial.FrozenTrial:
    point = {
        name: d.choices[int(generator.integers(len(d.choices)))]
        if isinstance(d, CategoricalDistribution)
        else float(generator.uniform(0.0, 0.8))
        for name, d in space.items()
    }
    values = _figures(point)
    return optuna.trial.create_trial(
        params=point,
        distributions=dict(space),
        values=values,
        constraints=_violations(values, limits),
    )


def _violations(values: Sequence[float], limits: Sequence[float]) -> dict[str, float]:
    losses = -values[0], values[1]
    return {
        f"objective {k}": loss - limit for k, (loss, limit) in enumerate(zip(losses, limits, strict=False))
    }


def _figures(point: Mapping[str, Any]) -> list[float]:
    """Accuracy and latency of a made-up network of 30 layers."""
    ratios = np.array([v for name, v in point.items() if name.endswith("ratio")])
    bits = np.array([v for name, v in point.items() if name.endswith("bits")])
    lost = np.maximum(ratios - np.linspace(0.1, 0.7, len(ratios)), 0.0).mean() + 0.2 * (bits == 4).mean()
    return [float(-lost), float(((1 - ratios) * bits).mean() / 32)]


def arguments() -> argparse.Namespace:
    """The command line."""

    def listed(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="npz file")
    parser.add_argument("--choices", default="ops", help="column of choices, (N, d)")
    parser.add_argument("--accuracy", help="column to maximize")
    parser.add_argument("--latency", help="column to minimize")
    parser.add_argument(
        "--costs", type=listed, default=[], help="columns that are known without an evaluation"
    )
    parser.add_argument("--samplers", type=listed, default="auto,tpe,nsga2,gp,random")
    parser.add_argument("--budgets", type=listed, default="20,50,100,200,400")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--infeasible", type=float, default=0.0)
    parser.add_argument("--rivals", default=sys.executable, help="an interpreter that has Syne Tune and NePS")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--time", action="store_true", help="measure suggestion times instead")
    return parser.parse_args()


def main() -> int:
    """Search and print."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    options = arguments()
    if options.time:
        from autoprune.search.samplers.guided import GuidedSampler

        kept = True
        for title, limits in LIMITS.items():
            for past, seconds in measure_suggestions(lambda: GuidedSampler(seed=0), limits).items():
                kept &= seconds <= SUGGESTIONS[past]
                print(
                    f"{past:6} past trials, {title:18} {1000 * seconds:7.1f} ms   "
                    f"promised ≤ {1000 * SUGGESTIONS[past]:.0f} ms"
                )
        return 0 if kept else 1
    if not (options.table and options.accuracy and options.latency):
        raise SystemExit("--table, --accuracy and --latency are needed (or --time)")
    table = load(options.table, options)
    budgets = sorted({int(budget) for budget in options.budgets})
    results: dict[str, dict[int, list[float]]] = {}
    for name in options.samplers:
        runs = []
        for seed in range(options.seeds):
            sampler = sampler_named(name, table, seed, options.rivals)
            runs.append(search(table, sampler, budgets, options.in_flight, seed))
            if isinstance(sampler, Elsewhere):
                sampler.close()
            print(f"{name} seed {seed}", file=sys.stderr, end="\r")
        results[name] = {budget: [run[budget] for run in runs if budget in run] for budget in budgets}
    show(results, options.json)
    return 0


def show(results: Mapping[str, Mapping[int, list[float]]], as_json: bool) -> None:
    """Median and half the middle 68 % of the seeds, for each sampler and budget."""

    def spread(values: list[float]) -> float:
        return float(np.diff(np.quantile(values, [0.16, 0.84]))[0] / 2)

    if as_json:
        print(
            json.dumps(
                {
                    name: {
                        str(budget): {
                            "median": float(np.median(values)),
                            "mean": float(np.mean(values)),
                            "spread": spread(values),
                            "values": values,
                        }
                        for budget, values in by_budget.items()
                        if values
                    }
                    for name, by_budget in results.items()
                }
            )
        )
        return
    for name, by_budget in results.items():
        cells = [f"{b:5} {np.median(v):.3f} ±{spread(v):.3f}" for b, v in by_budget.items() if v]
        print(f"{name:8}", *cells)


if __name__ == "__main__":
    sys.exit(main())
