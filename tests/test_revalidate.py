"""Re-validation from the command line to the exported file, and what a changed space does to a study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_spec import TINY_SPEC
from typer.testing import CliRunner
from workers_here import workers_here

import autoprune
from autoprune import cli
from autoprune.errors import BadInput, RunFolderError
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.space import Options, Range, Space
from autoprune.study import Study


@pytest.fixture(scope="module", autouse=True)
def one_worker() -> Iterator[None]:
    with workers_here():
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A search that starts candidates from one another."""
    space = {name: TINY_SPEC["space"][name] for name in ("prune", "quantize")}
    spec = {
        **TINY_SPEC,
        "space": space,
        "objectives": {"accuracy": "maximize", "size_bytes": "minimize"},  # the same front each time
        "search": {"rungs": [0, 0.5], "inherit": "nearest"},
        "budget": {"trials": 10},
    }
    return autoprune.search(spec, run=tmp_path_factory.mktemp("revalidate") / "run")


@pytest.fixture
def run(searched: Study, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched.folder, tmp_path / "run"))


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_means_are_printed_and_the_middle_seed_is_exported(run: Path, tmp_path: Path) -> None:
    printed = command("revalidate", run, "--best", 2, "--seeds", 2)
    assert printed.exit_code == 0 and "mean ± deviation" in printed.stdout
    study = autoprune.open_study(run)
    on_front = [trial for trial in study.front if trial.is_revalidated]
    trial = study.best()
    assert trial.is_revalidated and len(trial.validations) == 2
    seeds = {one.seed for one in trial.validations}
    assert seeds == {study.spec.seed + 1, study.spec.seed + 2}
    rows = {row["trial"]: row for row in json.loads(command("front", run, "--json").stdout)}
    assert on_front
    for one in on_front:
        row = rows[one.number]
        assert row["seeds"] == 2 and row["metrics"] == one.metrics and row["deviations"] == one.deviations
    header = command("front", run, "--csv").stdout.splitlines()[0]
    assert {"seeds", "accuracy_deviation"} <= set(header.split(","))

    folder = autoprune.export(trial, tmp_path / "out")
    written = json.loads((folder / "metrics.json").read_text())["search"]
    assert trial.latest is not None
    assert written["validation"] == trial.latest.metrics
    assert written["revalidated"]["mean"] == trial.metrics
    assert "±" in autoprune.report(run).read_text()


def test_a_repeat_is_the_same_again_and_another_one_differs(searched: Study) -> None:
    evaluator = Evaluator(searched.spec)
    evaluator.attach_data(None)
    evaluator.attach_reference((searched.folder / "reference.safetensors").read_bytes())
    point = searched.front[0].choices
    first, again, other = (evaluator.evaluate(Request(0, 1, point, repeat=n)) for n in (1, 1, 2))
    assert first.state == "finished" and (first.repeat, first.seed, other.seed) == (1, 1, 2)
    assert first.checkpoint == again.checkpoint and first.checkpoint != other.checkpoint
    assert first.metrics["accuracy"] == again.metrics["accuracy"]
    assert first.measurement != again.measurement  # latency is measured anew each time


def test_an_heir_is_exported_as_it_was_measured(searched: Study, tmp_path: Path) -> None:
    heirs = [trial for trial in searched.front if "inherited_from" in trial.structure]
    kept = [trial for trial in heirs or searched.front if searched.load_checkpoint(trial.number) is not None]
    assert (autoprune.export(kept[0], tmp_path / "out") / "metrics.json").is_file()


@pytest.mark.parametrize("arguments", [{"best": 0}, {"seeds": 0}, {"seeds": 101}, {"best": True}])
def test_numbers_that_make_no_sense_are_refused(run: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="expected a whole number from 1 to"):
        autoprune.revalidate(run, **arguments)


def test_a_study_of_which_the_space_lost_values_cannot_go_on_and_says_what(run: Path) -> None:
    journal = run / "study.journal"  # of a target that could do two bits, too
    journal.write_text(journal.read_text().replace('"options":[4,8,32]', '"options":[2,4,8,32]'))
    with pytest.raises(RunFolderError, match="trials can be looked at") as caught:
        autoprune.resume(run)
    assert "weight_bits: was" in str(caught.value)
    assert autoprune.open_study(run).front


def test_what_came_and_went_in_a_space_is_told() -> None:
    before = Space(
        {"a.ratio": Range(0.0, 0.8, 0.0), "b.bits": Options((4, 8), 8), "c.ratio": Range(0.0, 0.5, 0.0)}
    )
    now = Space(
        {"a.ratio": Range(0.0, 0.9, 0.0), "b.bits": Options((8,), 8), "d.ratio": Range(0.0, 0.5, 0.0)}
    )
    lost, others = before.changes_to(now)
    assert [line.split(":")[0] for line in lost] == ["b.bits"]
    assert others == [
        "c.ratio: is gone; what trials chose of it has no effect any more",
        "d.ratio: is new; it stays at 0.0",
    ]
    assert before.changes_to(before) == ([], [])
