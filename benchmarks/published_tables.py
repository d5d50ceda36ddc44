"""Rows of published tables: what papers report for a network, and what a search or a technique reaches here.

    AUTOPRUNE_DATA=FOLDER .venv/bin/python benchmarks/published_tables.py [--only lenet_300_100] [--minutes 30]
        [--seeds 0 1 2] [--weights FILE] [--runs DIR] [--json FILE]

FOLDER holds mnist, fashion_mnist and cifar10 as `<name>_{train,test}.npz`; FILE the published weights of ResNet-20. For
the two LeNets a joint search of `--minutes` with the ready spec comes first, in which the test split has no part; the
points that it chooses are then made anew from scratch, reference included, under each seed. Errors are those on the
test split; bytes are those of the weight file. Figures are mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load as load_tensors

import autoprune
from autoprune.compress.data_pruning import kept
from autoprune.compress.example_scores import BUILT_IN, OF_HARDNESS, at, labels_of
from autoprune.evaluate import Evaluator
from autoprune.record import Evaluation, Request
from autoprune.references import search_spaces_folder
from autoprune.report.live import live_view
from autoprune.space import Choices, Value
from autoprune.spec import load_spec
from autoprune.study import Study, Trial
from autoprune.task import evaluate_metrics

DENSE_BYTES = {"lenet_300_100": 266_610 * 4, "lenet_5": 431_080 * 4}
DENSE_WEIGHTS = {"lenet_300_100": 266_200, "lenet_5": 430_500}


@dataclass(frozen=True)
class Wanted:
    """A point of a LeNet that is to be reached: of the trials on the front that are small enough, the most accurate.

    Attributes:
        small: what is to be small: `size_bytes`, or `weights` that are not zero.
        smaller: how many times smaller it is to be, at least.
        error: on the test split, in percent, at most.
    """

    small: str
    smaller: float
    error: float


LENETS = {
    "lenet_300_100": [Wanted("size_bytes", 100, 1.64), Wanted("weights", 60, 1.99)],
    "lenet_5": [Wanted("size_bytes", 250, 0.91), Wanted("size_bytes", 100, 0.80)],
}
# Epochs at each rung of what is chosen: a search of minutes ranks LeNet-5 after few.
LONGER: dict[str, dict[str, Any]] = {"lenet_5": {"rungs": [3, 16]}}
MARGIN = 1.03  # another seed makes a file that is a little larger or smaller


@dataclass
class Table:
    """The rows printed so far, and whether all that was wanted was reached."""

    rows: list[dict[str, Any]]

    def add(self, row: str, what: str, values: Sequence[float], wanted: str, is_reached: bool) -> None:
        """Print a figure, mean ± standard deviation, beside what was wanted."""
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.mean(values)
        print(
            f"{row:24}{what:44}{mean:>10.4g} ± {spread:<8.2g}{wanted:26}{'reached' if is_reached else 'MISSED'}",
            flush=True,
        )
        self.rows.append(
            {"row": row, "what": what, "values": list(values), "wanted": wanted, "reached": is_reached}
        )


def prepared(spec: dict[str, Any] | str, seed: int, **overrides: Any) -> Evaluator:
    """Data and a reference trained under a seed, in this process."""
    evaluator = Evaluator(load_spec(spec, seed=seed, **overrides))
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    return evaluator


def made(evaluator: Evaluator, choices: dict[str, Value]) -> tuple[Evaluation, dict[str, float]]:
    """A candidate, trained to the last rung; its evaluation, and its figures on the test split."""
    from autoprune.candidate import restore

    last = len(evaluator.spec.rung_epochs) - 1
    result = evaluator.evaluate(Request(0, last, choices))
    if result.state != "finished" or result.checkpoint is None:
        raise RuntimeError(f"the candidate {result.state}: {result.reason}")
    context = evaluator.context()
    model, _ = restore(result.checkpoint, evaluator.techniques, context)
    deployed, runnable = evaluator.deploy(model, Choices(choices), context)
    figures = evaluate_metrics(runnable.run, evaluator.task, evaluator.data.test)
    return result, {**figures, "size_bytes": result.metrics["size_bytes"], "weights": nonzero(deployed)}


def nonzero(model: torch.nn.Module) -> int:
    """How many weights of layers are not zero, biases not counted."""
    layers = [
        module for module in model.modules() if isinstance(getattr(module, "weight", None), torch.Tensor)
    ]
    return sum(int(layer.weight.count_nonzero()) for layer in layers if layer.weight.dim() > 1)


def lenet(name: str, table: Table, options: argparse.Namespace) -> None:
    """A joint search, and the points that it chooses under each seed."""
    longer = {"search": LONGER[name]} if name in LONGER else {}
    evaluators = {seed: prepared(name, seed, **longer) for seed in options.seeds}
    references = [evaluate_metrics(e.reference, e.task, e.data.test)["error"] for e in evaluators.values()]
    table.add(name, "error of the dense reference, %", references, "", True)
    for wanted in LENETS[name]:
        study = searched(name, wanted.small, options)
        dense = (DENSE_BYTES if wanted.small == "size_bytes" else DENSE_WEIGHTS)[name]
        chosen = most_accurate(study, wanted.small, dense / wanted.smaller / MARGIN)
        print(f"chosen: trial {chosen.number}: {chosen.metrics}\n{chosen.choices}", flush=True)
        figures = [made(evaluator, chosen.choices)[1] for evaluator in evaluators.values()]
        errors = [row["error"] for row in figures]
        smaller = [dense / row[wanted.small] for row in figures]
        fine = statistics.mean(errors) <= wanted.error and statistics.mean(smaller) >= wanted.smaller
        table.add(name, f"times smaller ({wanted.small})", smaller, f"≥ {wanted.smaller:g}", fine)
        table.add(name, "  error, %", errors, f"≤ {wanted.error:g}", fine)


def searched(name: str, small: str, options: argparse.Namespace) -> Study:
    """The study of the ready spec; where weights are counted, without few bits, so that bytes stand for them."""
    run = options.runs / (name if small == "size_bytes" else f"{name}-{small}")
    if not run.exists():
        spec = yaml.safe_load((search_spaces_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
        if small == "weights":
            del spec["space"]["quantize"]
            spec["constraints"] = ["size_bytes <= 2.2%"]
        with live_view() as view:
            autoprune.search(spec, run=run, on_event=view, minutes=options.minutes)
    autoprune.report(run)
    return autoprune.open_study(run)


def most_accurate(study: Study, small: str, most: float) -> Trial:
    """Of the trials on the front with at most so many bytes or weights the most accurate on the validation split."""
    fitting = [trial for trial in study.front if figure_of(study, trial, small) <= most]
    if not fitting:
        raise SystemExit(f"no trial has at most {most:.0f} {small}; give the search more minutes")
    return max(fitting, key=lambda trial: trial.metrics["accuracy"])


def figure_of(study: Study, trial: Trial, small: str) -> float:
    """Bytes of the weight file, or weights that are not zero, of a trial."""
    if small == "size_bytes":
        return trial.metrics[small]
    tensors = load_tensors(study.load_checkpoint(trial.number) or b"")
    return sum(int(tensor.count_nonzero()) for tensor in tensors.values() if tensor.dim() > 1)


def data_pruning(table: Table, options: argparse.Namespace) -> None:
    """Fashion-MNIST on 30 % of its examples, chosen by each score, trained from scratch."""
    epochs, keep = 30.0, 0.3
    accuracies: dict[str, list[float]] = {method: [] for method in dict.fromkeys(("random", *options.scores))}
    for seed in options.seeds:
        spec = {
            "task": "fashion_mnist",
            "space": {"data_pruning": True},
            "train": {"epochs": 3, "precision": "auto"},
            "budget": {"trials": 1},
        }
        evaluator = prepared(spec, seed)
        context, split = evaluator.context(), evaluator.data.train
        for method in accuracies:
            scores = BUILT_IN[method](split, context)
            places = kept(scores, labels_of(split), keep, by_chance=method in OF_HARDNESS, seed=seed)
            torch.manual_seed(seed)
            model = evaluator.task.model()
            autoprune_train(evaluator, model, at(split, places), epochs, seed)
            found = evaluate_metrics(model, evaluator.task, evaluator.data.test)["accuracy"]
            accuracies[method].append(found)
            print(f"seed {seed} {method}: {found:.2f} %", flush=True)
    random = accuracies.pop("random")
    table.add("data pruning, 30 %", "random, accuracy %", random, "", True)
    best = max(accuracies, key=lambda method: statistics.mean(accuracies[method]))
    for method, values in accuracies.items():
        gain = [value - base for value, base in zip(values, random, strict=True)]
        is_best = method == best
        reached = not is_best or statistics.mean(gain) >= 1.0
        table.add(
            "data pruning, 30 %", f"{method} above random, points", gain, "≥ 1" if is_best else "", reached
        )


def autoprune_train(
    evaluator: Evaluator, model: torch.nn.Module, split: Any, epochs: float, seed: int
) -> None:
    """A network from scratch, as the search trains its reference."""
    from autoprune.train import train

    train(model, evaluator.task, split, epochs=epochs, settings=evaluator.settings, seed=seed)


def lottery_ticket(table: Table, options: argparse.Namespace) -> None:
    """LeNet-300-100 at 20 % of its weights: the ticket, and the same mask with another initialisation."""
    tickets, others, dense = [], [], []
    for seed in options.seeds:
        spec = {
            "task": "lenet_300_100",
            "space": {
                "sparsify": {
                    "sparsity": 0.8,
                    "schedule": "lottery_ticket",
                    "rounds": 5,
                    "compare": True,
                }
            },
            "train": {"epochs": 10, "learning_rate": 0.05},
            "search": {"rungs": [30]},
            "budget": {"trials": 1},
        }
        evaluator = prepared(spec, seed)
        space = evaluator.describe()["choices"]
        result, _ = made(evaluator, {name: choice_value(choice) for name, choice in space.items()})
        ticket = result.structure["sparsify"]["ticket"]
        print(f"seed {seed}: {ticket}", flush=True)
        tickets.append(ticket["trained"])
        others.append(ticket["reinitialised"])
        dense.append(ticket["dense_quality"])
    table.add("lottery ticket, 20 %", "dense, accuracy %", dense, "", True)
    reached = statistics.mean(tickets) >= statistics.mean(dense)
    table.add("lottery ticket, 20 %", "ticket, accuracy %", tickets, "≥ dense", reached)
    below = statistics.mean(others) < statistics.mean(dense)
    table.add("lottery ticket, 20 %", "random re-initialisation, accuracy %", others, "< dense", below)


def choice_value(choice: dict[str, Any]) -> Value:
    """The only value of a choice that a spec fixes."""
    values: list[Value] = choice.get("options") or [choice["low"]]
    return values[0]


LSQ = [((4, 4), 91.0), ((2, 8), 90.0)]


def learned_steps(table: Table, options: argparse.Namespace) -> None:
    """ResNet-20 from its published weights: few bits by learned step sizes, and eight bits after training."""
    weights = str(options.weights.resolve())
    for seed in options.seeds:
        evaluator = resnet(weights, seed, epochs=0.0)
        dense = evaluate_metrics(evaluator.reference, evaluator.task, evaluator.data.test)["accuracy"]
        eight = made(evaluator, bits_everywhere(evaluator, 8, 8, "ptq"))[1]["accuracy"]
        table.add(
            "ResNet-20, CIFAR-10",
            f"seed {seed}: eight bits, accuracy %",
            [eight],
            f"≥ {dense - 0.1:.2f}",
            eight >= dense - 0.1,
        )
        break  # nothing is drawn at random but the examples that calibrate it
    for (weight_bits, activation_bits), least in LSQ:
        found = []
        for seed in options.seeds:
            evaluator = resnet(weights, seed, epochs=3.0)
            choices = bits_everywhere(evaluator, weight_bits, activation_bits, "lsq")
            found.append(made(evaluator, choices)[1]["accuracy"])
            print(f"seed {seed} W{weight_bits}A{activation_bits}: {found[-1]:.2f} %", flush=True)
        reached = statistics.mean(found) >= least
        name = f"W{weight_bits}A{activation_bits} by LSQ, 3 epochs, accuracy %"
        table.add("ResNet-20, CIFAR-10", name, found, f"≥ {least:g}", reached)


def resnet(weights: str, seed: int, epochs: float) -> Evaluator:
    """ResNet-20 with every layer but the first and the last in few bits, as the tables have it."""
    spec = {
        "task": {"use": "cifar10", "weights": weights},
        "target": {"use": "benchmarks/any_bits.py:AnyBits"},
        "space": {
            "quantize": {
                "weight_bits": [2, 4, 8],
                "activation_bits": [4, 8],
                "quantizer": ["ptq", "lsq"] if epochs > 0 else ["ptq"],
                "fixed": {"conv1": 8, "linear": 8},
            },
        },
        "train": {"epochs": 0, "learning_rate": 0.01, "weight_decay": 1e-4},
        "search": {"rungs": [epochs]},
        "budget": {"trials": 1},
    }
    return prepared(spec, seed)


def bits_everywhere(
    evaluator: Evaluator, weight_bits: int, activation_bits: int, quantizer: str
) -> dict[str, Value]:
    """The same bits for all layers that are a choice."""
    wanted: dict[str, Value] = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    names = list(evaluator.describe()["choices"])
    point = {name: wanted.get(name.rpartition(".")[2], "") for name in names}
    return {**{name: value for name, value in point.items() if value != ""}, "quantize.quantizer": quantizer}


ROWS: dict[str, Callable[[Table, argparse.Namespace], None]] = {
    "lenet_300_100": lambda table, options: lenet("lenet_300_100", table, options),
    "lenet_5": lambda table, options: lenet("lenet_5", table, options),
    "data_pruning": data_pruning,
    "lottery_ticket": lottery_ticket,
    "lsq": learned_steps,
}


def main(arguments: Iterable[str] | None = None) -> int:
    """Print the rows asked for; 1 when one is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=ROWS, action="append")
    parser.add_argument("--minutes", type=float, default=30, help="of each search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--scores", nargs="+", choices=BUILT_IN, default=list(BUILT_IN), help="of data pruning"
    )
    parser.add_argument("--weights", type=Path, default=Path("cifar10_resnet20.safetensors"))
    parser.add_argument("--runs", type=Path, default=Path("runs/published_tables"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(1)
    table = Table([])
    for name, row in ROWS.items():
        if not options.only or name in options.only:
            row(table, options)
    if options.json is not None:
        options.json.write_text(json.dumps(table.rows, indent=1), encoding="utf-8")
    return 0 if all(row["reached"] for row in table.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
