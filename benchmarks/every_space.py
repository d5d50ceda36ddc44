"""Every ready space, searched to the end on its real data with a budget of minutes, and the best point exported.

    python benchmarks/every_space.py --minutes 1 --folder runs/spaces [--only activities mnist_mlp] [--images 2000]

Training is cut short (`--epochs` of reference and supernet, on `--images`, rungs at 0 and a tenth of that), for this
says whether a space works, not how good it is. Prints a line for each: trials with a result, rejected and failed
ones, the first objective of the reference and of the best trial, and what went wrong. Ends with 1 where anything
failed. It goes on where it was killed. `cifar10_resnet20` wants its weights in the working directory.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from less_data import less

import autoprune
from autoprune.errors import AutopruneError
from autoprune.references import search_spaces_folder
from autoprune.spec import load_spec


def shortened(
    name: str, minutes: float, epochs: float, workers: int, images: int | None = None
) -> dict[str, Any]:
    """A ready spec with little training, without constraints, which so little training would not meet."""
    given = load_spec(name, workers=workers).to_json()
    if images is not None:
        given["task"] = less(name, images)
    if given["train"]["epochs"] > 0:
        given["train"]["epochs"] = min(epochs, given["train"]["epochs"])
    given["search"]["rungs"] = [0.0, epochs / 10]
    if "supernet" in given:
        given["supernet"]["epochs"] = epochs
    given["constraints"] = []
    given["budget"] = {"trials": 12, "minutes": minutes}
    return given


def tried(name: str, given: dict[str, Any], folder: Path) -> tuple[str, bool]:
    """A line on one space, and whether all went well."""
    try:
        study = autoprune.resume(folder) if folder.is_dir() else autoprune.search(given, run=folder)
        states = Counter(trial.state for trial in study.trials)
        first = study.spec.objectives[0]
        best = study.best()
        artifact = folder / "export" / str(best.number)
        if not artifact.is_dir():
            autoprune.export(best, artifact)
    except AutopruneError as error:
        return f"{name}: {type(error).__name__}: {error}", False
    failed = [trial.reason for trial in study.trials if trial.state == "failed"]
    told = f"{name}: {len(study.results)} results, {states['rejected']} rejected, {len(failed)} failed; {first.metric} "
    told += f"{study.baseline[first.metric]:.2f}, best trial {best.metrics[first.metric]:.2f}, exported"
    return "\n  ".join([told, *sorted(set(failed))]), not failed


def main() -> int:
    """Search all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="names of specs")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each search, its supernet included")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the reference and of a supernet")
    parser.add_argument("--images", type=int, help="of the training split; all by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/every_space"))
    arguments = parser.parse_args()
    names = arguments.only or sorted(path.stem for path in search_spaces_folder().glob("*.yaml"))
    good = True
    for name in names:
        given = shortened(name, arguments.minutes, arguments.epochs, arguments.workers, arguments.images)
        line, went_well = tried(name, given, arguments.folder / name)
        good = good and went_well
        print(line, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
