"""What the loop itself costs: trials per second with a candidate that does nothing, against Ray Tune.

    .venv/bin/python benchmarks/loop_overhead.py [--trials N] [--tune-python PYTHON] [--tune-trials N]

Both run the same 20 choices and two objectives, the same sampler (Optuna's random one, seed 0) and two
workers on a Ray of their own; ours queues `DEPTH` requests at each, since an answer takes no time (Ray Tune gains
nothing from more trials at once). Ours writes a durable study: every proposal before it is dispatched and every
result, one fsync for each group. Ray Tune runs OptunaSearch with `reuse_actors=True`.

Ray Tune needs packages that autoprune does not; they belong in an environment of their own:

    python -m venv /tmp/tune && /tmp/tune/bin/pip install "ray[tune]==2.60.0" "optuna>=5"
    .venv/bin/python benchmarks/loop_overhead.py --tune-python /tmp/tune/bin/python

Exits with 1 when ours is less than 20 times as fast.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RATIO = 20.0
WORKERS = 2
DEPTH = 32
NUMBERS = tuple(f"prune.group{i}.ratio" for i in range(10))
OPTIONS = tuple(f"quantize.layer{i}.weight_bits" for i in range(10))
BITS = (4, 8, 32)


class NoOp:
    """A candidate that costs nothing: its metrics are sums of its choices."""

    def evaluate(self, request: Any) -> Any:
        """The answer to a request."""
        from autoprune.record import Evaluation

        metrics = figures(request.choices)
        return Evaluation(request.trial, 0, "finished", request.choices, metrics, read=request.choices)


def figures(point: dict[str, Any]) -> dict[str, float]:
    """Two metrics that pull in different directions."""
    pruned = sum(float(point[name]) for name in NUMBERS)
    bits = sum(float(point[name]) for name in OPTIONS)
    return {"accuracy": 100.0 - pruned, "latency_ms": bits / 320.0 - pruned / 100.0}


def measure_ours(trials: int) -> float:
    """Trials per second of our loop, from the first request to the last commit."""
    from autoprune.cluster import Pool
    from autoprune.search.loop import run_search
    from autoprune.search.samplers import make_sampler
    from autoprune.space import Options, Range, Space
    from autoprune.spec import load_spec
    from autoprune.study import Study

    spec = load_spec(
        {
            "task": "digits",
            "budget": {"trials": trials},
            "search": {"sampler": "random", "rungs": [0], "warm_start": False},
        }
    )
    space = Space(
        {
            **{name: Range(0.0, 0.8, 0.0) for name in NUMBERS},
            **{name: Options(BITS, 32) for name in OPTIONS},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        study = Study.create(Path(folder) / "run", spec, space, {}, figures(space.neutral()))
        with study, Pool(f"{Path(__file__).resolve()}:NoOp", {}, workers=WORKERS, depth=DEPTH) as pool:
            sampler = make_sampler("random", seed=0)
            start = time.perf_counter()
            run_search(study, pool, sampler)
            seconds = time.perf_counter() - start
        done = Study.open(Path(folder) / "run").status()["trials"]["finished"]
    return float(done / seconds)


def measure_tune(trials: int) -> float:
    """Trials per second of Ray Tune with OptunaSearch, from `fit` to its return."""
    import optuna
    import ray
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {
        **{name: FloatDistribution(0.0, 0.8) for name in NUMBERS},
        **{name: CategoricalDistribution(BITS) for name in OPTIONS},
    }
    search = OptunaSearch(
        space,
        metric=["accuracy", "latency_ms"],
        mode=["max", "min"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(figures, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=search, num_samples=trials, max_concurrent_trials=WORKERS, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        start = time.perf_counter()
        done = len(tuner.fit())
        seconds = time.perf_counter() - start
    ray.shutdown()
    return done / seconds


def tune_in(python: str, trials: int) -> float:
    """`measure_tune` in another environment.

    Raises:
        SystemExit: it cannot run there; says how to install it.
    """
    command = [python, str(Path(__file__).resolve()), "--only-tune", "--tune-trials", str(trials)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(
            f"Ray Tune does not run in {python}: {last}\n"
            'python -m venv /tmp/tune && /tmp/tune/bin/pip install "ray[tune]==2.60.0" "optuna>=5"\n'
            "then add --tune-python /tmp/tune/bin/python"
        )
    return float(result.stdout.strip().splitlines()[-1])


def main() -> int:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000, help="trials of our loop")
    parser.add_argument("--tune-trials", type=int, default=200, help="trials of Ray Tune; 0 leaves it out")
    parser.add_argument("--tune-python", default=sys.executable, help="Python that has ray[tune] and optuna")
    parser.add_argument("--only-tune", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_tune:
        print(measure_tune(options.tune_trials))
        return 0
    ours = measure_ours(options.trials)
    print(f"autoprune                {ours:8.1f} trials/s")
    if not options.tune_trials:
        return 0
    tune = tune_in(options.tune_python, options.tune_trials)
    print(f"Ray Tune + OptunaSearch  {tune:8.1f} trials/s")
    print(f"ratio                    {ours / tune:8.1f} (at least {RATIO:g})")
    return 0 if ours >= RATIO * tune else 1


if __name__ == "__main__":
    raise SystemExit(main())
