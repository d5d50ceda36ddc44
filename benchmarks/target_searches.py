"""Does the target matter? ResNet-20 searched for each of several, and every result read on all of them.

    AUTOPRUNE_DATA=FOLDER python benchmarks/target_searches.py --weights FILE [--minutes 4] [--folder DIR]

Nothing is trained: the published network (FILE, CIFAR-10) is rounded, each layer to bits of its own, all that the
target can run. On each target, its own search's best point within a point of the baseline is held against those of the
searches for the others, of which only those count that lose no more than half a point against it there.
A width that a target does not have becomes its next wider one, and a float the widest that a circuit has. The reuse
of a circuit's layers is what only a search for it decides: the others get the best one for all layers, as one would
take by hand, and in a second row the best with which all layers take the same time, which the target proposes.

Accuracies are validated on 500 examples; of the points named in the end, also on 1,000 of the test split. `asic` needs
`python -m autoprune.targets.environment zigzag`, and half an hour of one core the first time.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import autoprune
from autoprune.deployed.shapes import layer_shapes
from autoprune.evaluate import Evaluator
from autoprune.foresight import Sample
from autoprune.record import Request
from autoprune.references import resolve
from autoprune.space import Choices, Options, Value
from autoprune.study import Study
from autoprune.study.trial import Trial
from autoprune.targets import load_target
from autoprune.targets.target import Priced
from autoprune.task import evaluate_metrics

ALVEO_U50 = {"dsp": 5952, "lut": 872_000, "bram": 2688}
REUSE = [8, 16, 32, 64, 128, 256, 512, 1024]
TIE, TESTED = 0.5, 1000


class Aim(NamedTuple):
    """What one search is for.

    Attributes:
        target: as a spec has it.
        cost: the objective beside accuracy.
        weight_bits, activation_bits: that it chooses from.
        limits: most of other costs.
    """

    target: Mapping[str, Any]
    cost: str
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    limits: Mapping[str, float] = {}


AIMS = {
    "torch": Aim({"use": "torch"}, "latency_ms", (4, 5, 6, 7, 8, 32), (6, 8, 32)),
    "onnxruntime": Aim({"use": "onnxruntime"}, "latency_ms", (4, 5, 6, 7, 8, 32), (8, 32)),
    "fpga": Aim(
        {"use": "fpga", "reuse": REUSE, "part": "xcu50-fsvh2104-2-e", "megahertz": 200},
        "latency_ms", (4, 5, 6, 7, 8, 10, 12, 16), (4, 5, 6, 7, 8, 10, 12, 16), ALVEO_U50,
    ),
    "energy": Aim({"use": "torch"}, "energy_uj", (4, 5, 6, 7, 8, 32), (4, 5, 6, 7, 8, 32)),
    "asic": Aim({"use": "asic", "accelerator": "eyeriss_like"}, "energy_uj", (4, 6, 8), (6, 8)),
}  # fmt: skip


def searched(name: str, weights: Path, minutes: float, folder: Path) -> Study:
    """The search for a target, or what is there of it."""
    if folder.is_dir():
        return autoprune.open_study(folder)
    aim = AIMS[name]
    if name == "asic":
        ask_beforehand(aim)
    limits = [f"{cost} <= {most:g}" for cost, most in aim.limits.items()]
    spec = {
        "name": f"resnet20-{name}",
        "task": {"use": "cifar10", "weights": str(weights.resolve()), "validation": 0.01},
        "space": {
            "quantize": {
                "weight_bits": list(aim.weight_bits),
                "activation_bits": list(aim.activation_bits),
                "quantizer": "ptq",
                "bias_correction": [False, True],
            }
        },
        "target": dict(aim.target),
        "train": {"epochs": 0},
        "objectives": {"accuracy": "maximize", aim.cost: "minimize"},
        "constraints": ["accuracy >= baseline - 1.0", *limits],
        "budget": {"minutes": minutes},
        "search": {"rungs": [0], "profile": "full" if name == "energy" else None},
        "cluster": {"workers": 1},
    }
    return autoprune.search(spec, run=folder)


def ask_beforehand(aim: Aim) -> None:
    """Have the accelerator's model answer for every layer in all its widths: it takes seconds for each, once."""
    target: Any = load_target("asic", None, {"accelerator": aim.target["accelerator"]})
    shapes = layer_shapes(resolve("resnet.py:resnet")().eval(), torch.zeros(1, 3, 32, 32))
    start = time.perf_counter()
    for widths in [*itertools.product(aim.weight_bits, aim.activation_bits), (32, 32)]:
        target.layer_costs([s._replace(weight_bits=widths[0], activation_bits=widths[1]) for s in shapes])
        print(f"asic: {widths[0]}, {widths[1]} bits after {time.perf_counter() - start:.0f} s", flush=True)


class Reader:
    """Reads points on one target.

    Args:
        name: of the target.
        study: of the search for it.
    """

    def __init__(self, name: str, study: Study) -> None:
        self.name, self.aim, self.study = name, AIMS[name], study
        self.evaluator = Evaluator(study.spec)
        self.evaluator.attach_data(None)
        self.evaluator.attach_reference((study.folder / "reference.safetensors").read_bytes())

    def read(self, point: Mapping[str, Value]) -> tuple[float, float]:
        """Accuracy on the validation split, and the cost.

        Raises:
            SystemExit: it cannot be evaluated.
        """
        found = self.evaluator.evaluate(Request(-1, 0, dict(point)))
        if found.state != "finished":
            raise SystemExit(f"{self.name}: a point {found.state}: {found.reason}")
        return found.metrics["accuracy"], found.metrics[self.aim.cost]

    def tested(self, point: Mapping[str, Value]) -> float:
        """Accuracy on some of the test split."""
        evaluator, choices = self.evaluator, Choices(dict(point))
        _, runnable = evaluator.deploy(evaluator.reference, choices, evaluator.context())
        few = Sample(evaluator.data.test, TESTED, 0)
        return evaluate_metrics(runnable.run, evaluator.task, few)["accuracy"]

    def cost_of(self, point: Mapping[str, Value]) -> float:
        """The cost where the target knows it beforehand; 0 where it has to be measured."""
        return self.evaluator.price_point(dict(point)).get(self.aim.cost, 0.0) if self.is_modelled else 0.0

    @property
    def is_modelled(self) -> bool:
        """Whether costs are known beforehand."""
        return isinstance(self.evaluator.target, Priced)

    def translated(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """A point of another search with the widths that there are here."""
        made = self.study.space.neutral()
        for name, choice in self.study.space.items():
            if not isinstance(choice, Options) or (name not in point and not name.endswith("_bits")):
                continue
            given = point.get(name, 32)
            if name.endswith("_bits"):
                wider = [value for value in choice.values if float(value) >= float(given)]
                made[name] = min(wider or [max(choice.values, key=float)], key=float)
            elif given in choice.values:
                made[name] = given
        return made

    def built(self, point: Mapping[str, Value]) -> Iterator[tuple[str, dict[str, Value]]]:
        """The ways in which a point of another search can be built here, by name."""
        own = [name for name in point if name.startswith("target.")]
        if not own:
            yield "", dict(point)
            return
        families = {
            "": [dict.fromkeys(own, one) for one in REUSE],
            ", layers of equal time": self.study.profile["designs"],
        }
        for how, family in families.items():  # the quickest first
            fits = (made for one in family if self._fits(made := {**point, **one}))
            if (first := next(fits, None)) is not None:
                yield how, first

    def _fits(self, point: Mapping[str, Value]) -> bool:
        costs = self.evaluator.price_point(dict(point))
        return all(costs[name] <= most for name, most in self.aim.limits.items())


def best_point(name: str, study: Study) -> Trial:
    """The cheapest point of a search that meets its constraints.

    Raises:
        SearchFailed: none does.
    """
    return study.best(minimize=AIMS[name].cost)


def compare(studies: Mapping[str, Study]) -> None:
    """Print, target by target, its own search's best point and the best of the others."""
    points = {name: best_point(name, study) for name, study in studies.items()}
    for name, study in studies.items():
        reader, own = Reader(name, study), points[name]
        cost = reader.aim.cost
        accuracy, value = reader.read(own.choices)
        print(f"{name}: {len(study.results)} trials in {study.seconds:.0f} s", flush=True)
        test = reader.tested(own.choices)
        print(f"  own point: {cost} {value:.5g}, validated {accuracy:.2f} %, test {test:.2f} %", flush=True)
        ways: dict[str, list[tuple[float, str, dict[str, Value]]]] = {}
        for other, trial in points.items():
            for how, point in reader.built(reader.translated(trial.choices)) if other != name else ():
                ways.setdefault(how, []).append((reader.cost_of(point), other, point))
        for how, candidates in ways.items():
            _print_best(reader, how, candidates, accuracy, value)


def _print_best(
    reader: Reader,
    how: str,
    candidates: list[tuple[float, str, dict[str, Value]]],
    accuracy: float,
    value: float,
) -> None:
    """Read the points of other searches, cheapest first, and print what the own one is beside the best that counts."""
    cost, best = reader.aim.cost, None
    for _, other, point in sorted(candidates, key=lambda one: one[0]):
        found, price = reader.read(point)
        counts = found >= accuracy - TIE
        note = "" if counts else ", less accurate: does not count"
        print(f"    {other}{how}: {cost} {price:.5g}, validated {found:.2f} %{note}", flush=True)
        if counts and (best is None or price < best[0]):
            best = price, other, point
        if best is not None and reader.is_modelled:
            break  # the others cost more
    if best is not None:
        price, other, point = best
        print(
            f"  best of others{how}: {other}, {cost} {price:.5g}, test {reader.tested(point):.2f} %: "
            f"the own one takes {100 * (1 - value / price):.1f} % less",
            flush=True,
        )


def main() -> None:
    """Search for each, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="of each search")
    parser.add_argument("--folder", type=Path, default=Path("runs/targets"))
    parser.add_argument("--only", nargs="+", choices=list(AIMS), default=list(AIMS))
    parser.add_argument("--search", action="store_true", help="search, do not compare")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    studies = {
        name: searched(name, arguments.weights, arguments.minutes, arguments.folder / name)
        for name in arguments.only
    }
    if not arguments.search:
        compare(studies)


if __name__ == "__main__":
    main()
