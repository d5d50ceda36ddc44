"""Optimizers of Syne Tune and NePS for `search_tables.py`, each asked in an environment of its own.

    python3 -m venv ENV && ENV/bin/pip install torch==2.13.0 syne-tune==0.16.0 neural-pipeline-search==0.17.0 botorch
    .venv/bin/python benchmarks/search_tables.py … --samplers auto,syne-ehvi --rivals ENV/bin/python

`syne-ehvi` is Syne Tune's expected hypervolume improvement (BoTorch), `syne-evolution` its regularized evolution for
several objectives, `neps-primo` NePS's PriMO. PriMO begins with MO-ASHA over a fidelity. A table has none, so each of
three fidelities gives the same answer, and counts as an evaluation only where it asks for another network. None of them
takes costs that are known beforehand.

Run by that environment's Python this file is the other side: it reads a line of JSON for each request from standard
input, `["ask"]` or `["tell", number, [loss, loss]]`, and answers with a point or `null`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Point = dict[str, Any]
Ask = Callable[[], Point]
Tell = Callable[[int, Sequence[float]], None]
LOSSES = ("error", "latency")
FIDELITIES = 3


class Rival:
    """An optimizer in another process.

    Args:
        python: the interpreter of its environment.
        name: see the table below.
        options: choice -> its values.
        seed: of its draws.
    """

    def __init__(self, python: str, name: str, options: Mapping[str, Sequence[Any]], seed: int) -> None:
        self._process = subprocess.Popen(
            [python, __file__, name, json.dumps(options), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self) -> Point:
        """A point to try; points are numbered in the order in which they are asked for."""
        found: Point = self._answer(["ask"])
        return found

    def tell(self, number: int, losses: Sequence[float]) -> None:
        """What came of a point."""
        self._answer(["tell", number, list(losses)])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self, request: list[Any]) -> Any:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a rival has ended: exit code {self._process.wait()}")
        return json.loads(line)


def _syne(options: Mapping[str, Sequence[Any]], seed: int, evolve: bool) -> tuple[Ask, Tell]:
    from syne_tune.config_space import choice
    from syne_tune.optimizer.baselines import EHVI
    from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler
    from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution
    from syne_tune.optimizer.schedulers.single_fidelity_scheduler import SingleFidelityScheduler

    space = {name: choice(list(values)) for name, values in options.items()}
    given = {"metrics": list(LOSSES), "do_minimize": True, "random_seed": seed}
    if evolve:
        searcher = MultiObjectiveRegularizedEvolution(space, population_size=20, random_seed=seed)
        scheduler = SingleFidelityScheduler(space, searcher=searcher, **given)
    else:
        scheduler = EHVI(space, **given)
    asked, trials = AskTellScheduler(scheduler), []

    def ask() -> Point:
        trials.append(asked.ask())
        return dict(trials[-1].config)

    def tell(number: int, losses: Sequence[float]) -> None:
        asked.tell(trials[number], dict(zip(LOSSES, losses, strict=True)))

    return ask, tell


def _neps(options: Mapping[str, Sequence[Any]], seed: int) -> tuple[Ask, Tell]:
    import random

    import neps
    import numpy as np
    import torch
    from neps.space.parsing import convert_to_space

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    choices = {name: neps.HPOCategorical([str(v) for v in values]) for name, values in options.items()}
    space = convert_to_space({**choices, "epochs": neps.HPOInteger(1, FIDELITIES, is_fidelity=True)})
    asked, trials = neps.AskAndTell(neps.algorithms.primo(space, prior_centers={})), []

    def ask() -> Point:
        trials.append(asked.ask())
        config = trials[-1].config
        return {name: {str(v): v for v in values}[config[name]] for name, values in options.items()}

    def tell(number: int, losses: Sequence[float]) -> None:
        asked.tell(trials[number], list(losses))

    return ask, tell


RIVALS: Mapping[str, Callable[[Mapping[str, Sequence[Any]], int], tuple[Ask, Tell]]] = {
    "syne-ehvi": lambda options, seed: _syne(options, seed, evolve=False),
    "syne-evolution": lambda options, seed: _syne(options, seed, evolve=True),
    "neps-primo": _neps,
}


def serve(name: str, options: Mapping[str, Sequence[Any]], seed: int) -> None:
    """Answer requests until there are no more; what libraries print goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    ask, tell = RIVALS[name](options, seed)
    for line in sys.stdin:
        kind, *arguments = json.loads(line)
        answer = ask() if kind == "ask" else tell(*arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
