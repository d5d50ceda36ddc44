"""Training-free proxies beside the parameter count, on NAS-Bench-201 with its real accuracies.

    .venv/bin/python benchmarks/proxies.py --table nasbench201_cifar10.npz --to scored.npz [--sample 1000 | --without 4]
    .venv/bin/python benchmarks/search_tables.py --table scored.npz --accuracy test_acc_cifar10 --samplers auto \\
        --latency latency_ms__fpga --costs params_cifar10,macs_cifar10,synflow --budgets 20,50,100 --seeds 10

The first command makes each network of the table small (one cell a stage, 4 channels) and untrained, asks every
proxy of `autoprune.proxies` about it with a batch of CIFAR-10, and prints the rank correlation (Spearman) with the
accuracy that the table has, beside that of its parameter counts. It writes the table with a column for each proxy,
with which the second one shows what a search makes of it: run it with and without. Cells without a way through are
scored below all others.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from autoprune.errors import ModelError
from autoprune.proxies import PROXIES, scores
from autoprune.spec import load_spec
from autoprune.structure.parametrize import make_model
from autoprune.task import Batch, Task, load_task

EDGES = ("edge01", "edge02", "edge12", "edge03", "edge13", "edge23")  # in the order of the table's columns
OPERATIONS = ("none", "skip", "conv1", "conv3", "pool3")
NETWORK = "cell_cnn.py:CellCNN?channels=4&in_channels=3"


def scored(rows: np.ndarray[Any, Any], task: Task, batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """What each proxy says of each row of operations, (N,) each; cells in which the same is left are asked once."""
    known: dict[str, dict[str, float]] = {}
    found: list[dict[str, float]] = []
    nothing = dict.fromkeys(PROXIES, -math.inf)
    for row in rows:
        chosen = {edge: OPERATIONS[int(number)] for edge, number in zip(EDGES, row, strict=True)}
        torch.manual_seed(0)
        try:
            model = make_model(task, chosen)
        except ModelError:
            found.append(nothing)
            continue
        key = str(model)
        if key not in known:
            known[key] = scores(model, task, batch)
        found.append(known[key])
    return {name: _finite(np.array([one[name] for one in found])) for name in PROXIES}


def _finite(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What is no number stands below all numbers."""
    finite = np.isfinite(values)
    low, high = values[finite].min(), values[finite].max()
    return np.where(finite, values, low - 0.1 * (high - low))


def main() -> None:
    """Score the table, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--to", type=Path, help="write the table with the scores")
    parser.add_argument("--sample", type=int, help="so many rows at random, in place of all")
    parser.add_argument(
        "--without", type=int, nargs="*", default=[], help="leave out cells with these operations"
    )
    parser.add_argument("--accuracy", default="test_acc_cifar10")
    parser.add_argument("--params", default="params_cifar10")
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(arguments.table, allow_pickle=False) as file:
        table = {name: np.asarray(file[name]) for name in file}
    kept = ~np.isin(table["ops"], arguments.without).any(axis=1)
    table = {name: column[kept] for name, column in table.items()}
    if arguments.sample is not None:
        chosen = np.random.default_rng(0).permutation(len(table["ops"]))[: arguments.sample]
        table = {name: column[chosen] for name, column in table.items()}
    given = {"use": "classification", "model": NETWORK, "data": "cifar10.py:cifar10_data"}
    spec = load_spec({"task": given, "budget": {"trials": 1}})
    task = load_task(spec.task.use, spec.folder, spec.task.arguments)
    batch = next(iter(task.data().train.batches(arguments.batch, shuffle=0)))
    start = time.process_time()
    columns = scored(table["ops"], task, batch)
    spent, count = time.process_time() - start, len(table["ops"])
    accuracy = table[arguments.accuracy]
    better = accuracy >= np.quantile(accuracy, 0.9)
    print(
        f"rank correlation with the accuracy of {count} networks (of the best tenth); "
        f"{1000 * spent / count:.0f} ms for all proxies of one"
    )
    for name, column in {"parameters (table)": table[arguments.params], **columns}.items():
        whole = spearmanr(column, accuracy).statistic
        print(f"  {name:20} {whole:.3f} ({spearmanr(column[better], accuracy[better]).statistic:.3f})")
    if arguments.to is not None:
        np.savez(arguments.to, **table, **columns)


if __name__ == "__main__":
    main()
