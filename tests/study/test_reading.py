"""Records that Optuna reads, and that are none of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_study import add, finished, new_study, point

from autoprune.errors import RunFolderError
from autoprune.record import Request
from autoprune.study import Study
from autoprune.study.reading import Shared


def edited(run: Path, key: str, change: Callable[[Any], Any]) -> None:
    """Put something else in the place of an attribute, the last time that it is written."""
    path = run / "study.journal"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    holder = next(line["user_attr"] for line in lines[::-1] if key in line.get("user_attr", {}))
    holder[key] = change(holder[key])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5, ratio=0.25)
        study.set_state("interrupted")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "change",
    [
        {"read": 3},
        {"metrics": {"accuracy": "high"}},
        {"metrics": {}},
        {"metrics": {"accuracy": True}},
        {"at": None},
        {"state": "done"},
        {"rung": 1},
        {"ead": {}},
        {"structure": {"architecture": [1]}},
        {"measurement": {"sources": "x"}},
        {"seconds": {"total": 1e999}},
        {"reason": 4},
    ],
)
def test_a_record_with_something_else_in_it_is_named(run: Path, change: dict[str, Any]) -> None:
    edited(run, "record", lambda record: {**record, **change})
    with pytest.raises(RunFolderError, match="study.journal: evaluation 1 is damaged: it"):
        Study.open(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("record", 7),
        ("state", ["x"]),
        ("state", {"state": "dancing"}),
        ("autoprune", 3),
        ("autoprune", {"format": 1, "spec": "task: digits", "space": {}, "baseline": {"accuracy": []}}),
    ],
)
def test_attributes_that_are_others_are_refused(run: Path, key: str, value: object) -> None:
    edited(run, key, lambda _: value)
    with pytest.raises(RunFolderError):
        Study.open(run)


def test_a_profile_of_others_is_passed_over(run: Path) -> None:
    for content in ("[1]", '{"seconds": 3}', '{"seconds": {"supernet": []}}', "[" * 100_000):
        (run / "profile.json").write_text(content)
        assert Study.open(run).status()["trials"]["finished"] == 1


def test_rows_of_layers_that_are_alike_are_held_once() -> None:
    shared = Shared()
    first, second = ({"layers": [{"name": "a", "macs": 3}, {"name": "b", "macs": n}, 7]} for n in (1, 2))
    for structure in (first, second, {"layers": 3}, {}, None):
        shared.record({"structure": structure, "read": 3})
    shared.record([1])
    assert first["layers"][0] is second["layers"][0] and first["layers"][1:] != second["layers"][1:]
    assert second["layers"][2] == 7


def test_choices_that_were_all_read_are_held_once(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        study.record(Request(0, 0, point()), finished(0, 0, point(), 88.0, 1.5))
        partly = finished(1, 0, point(0.5), 88.0, 1.5)
        partly.read = {"bits": 8}
        study.record(Request(1, 0, point(0.5)), partly)
    for found in (study, Study.open(tmp_path / "run")):
        whole, part = (trial.evaluations[0] for trial in found.trials)
        assert whole.read is whole.choices and part.read == {"bits": 8}
