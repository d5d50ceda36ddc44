"""The two tasks like those of MLPerf Tiny: what a search has beside the whole network in eight bits.

    python benchmarks/mlperf_tiny.py --minutes 10 --folder runs/tiny

MLPerf Tiny's keyword spotting runs DS-CNN, 54 kB in eight bits; its largest image network, ResNet-8, has 98 kB. Here
`spoken_digits` searches the same DS-CNN, `activities` a network of convolutions over time of about the other size, each
for `--minutes` device-minutes. The uncompressed network is quantized to eight bits after its training, as one does by
hand, and the search's fastest and smallest points are chosen among those that are no worse than it on the validation
split. Printed are all three with bytes of the weight file, milliseconds on one thread, and accuracy on the test split,
of the exported file. Wanted: smaller and faster at equal accuracy. It goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import autoprune
from autoprune.candidate import make
from autoprune.errors import SearchFailed
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.space import Choices
from autoprune.spec import load_spec
from autoprune.study import Study
from autoprune.task import evaluate_metrics

LIMITS = {"spoken_digits": ("DS-CNN", 54_000), "activities": ("ResNet-8", 98_000)}
Figures = dict[str, float]


def in_eight_bits(study: Study) -> tuple[Figures, float]:
    """The uncompressed network of a study, quantized after training: its metrics, and its test accuracy."""
    evaluator = Evaluator(study.spec)
    evaluator.attach_data(None)
    evaluator.attach_reference((study.folder / "reference.safetensors").read_bytes())
    point = study.space.neutral()
    point |= {name: 8 for name in point if name.endswith("_bits")}
    found = evaluator.evaluate(Request(-1, 0, point, epochs=0.0))
    if found.state != "finished":
        raise SystemExit(f"the network in eight bits {found.state}: {found.reason}")
    choices, context = Choices(point), evaluator.context()
    _, runnable = evaluator.deploy(make(evaluator.techniques, choices, context), choices, context)
    return found.metrics, evaluate_metrics(runnable.run, evaluator.task, evaluator.data.test)["accuracy"]


def exported(study: Study, by: str, accuracy: float) -> tuple[int, Figures]:
    """The best point by a metric among those that are no less accurate, as a file: its trial, and metrics.json of it.

    Raises:
        SearchFailed: there is none.
    """
    trial = study.best(f"accuracy >= {accuracy}", minimize=by)
    folder = study.folder / "export" / str(trial.number)
    if not folder.is_dir():
        autoprune.export(trial, folder)
    figures: Figures = json.loads((folder / "metrics.json").read_text())["export"]
    return trial.number, figures


def compare(name: str, minutes: float, workers: int, folder: Path) -> None:
    """Search, and print the three rows."""
    if folder.is_dir():
        study = autoprune.resume(folder)
    else:
        given = load_spec(name, workers=workers).to_json() | {"budget": {"device_seconds": 60 * minutes}}
        given["constraints"] = []
        study = autoprune.search(given, run=folder)
    (network, size), (whole, test) = LIMITS[name], in_eight_bits(study)
    print(f"{name}: {len(study.results)} trials; {network} in eight bits is {size / 1e3:.0f} kB")
    print(_row("whole network, eight bits", whole, test))
    for by in ("latency_ms", "size_bytes"):
        try:
            number, found = exported(study, by, whole["accuracy"])
        except SearchFailed as error:
            print(f"  none is as accurate: {error}")
            return
        smaller, faster = (whole[cost] / found[cost] for cost in ("size_bytes", "latency_ms"))
        print(
            f"{_row(f'least {by}, trial {number}', found, found['accuracy'])}, {smaller:.2f}x, {faster:.2f}x"
        )


def _row(what: str, metrics: Figures, accuracy: float) -> str:
    size, latency = metrics["size_bytes"] / 1e3, metrics["latency_ms"]
    return f"  {what:28} {size:7.1f} kB {latency:8.4f} ms {accuracy:6.2f} % on the test split"


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(LIMITS))
    parser.add_argument("--minutes", type=float, default=10.0, help="device-minutes of each search")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/mlperf_tiny"))
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else LIMITS:
        compare(name, arguments.minutes, arguments.workers, arguments.folder / name)


if __name__ == "__main__":
    main()
