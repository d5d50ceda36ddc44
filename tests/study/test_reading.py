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
from autoprune.study.reading import Rows


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
        {"read": {"ratio": [0.5]}},
        {"structure": {"layers": [7]}},
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


def test_an_evaluation_that_is_there_twice_is_named(run: Path) -> None:
    with Study.open(run, write=True) as study:
        add(study, 87.0, 1.0)
    path = run / "study.journal"
    path.write_text(path.read_text().replace('"trial":1', '"trial":0'))
    with pytest.raises(
        RunFolderError, match="evaluation 2 is damaged: trial 0 at rung 0 is on record already"
    ):
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


def with_layers(*rows: Any) -> dict[str, Any]:
    return {"structure": {"layers": list(rows)}}


def test_a_row_of_layers_is_on_record_and_in_memory_once() -> None:
    rows, held = Rows(), []
    records = [with_layers({"name": "a", "macs": 3}, {"name": "b", "macs": n}, 7.5) for n in (1, 2)]
    for record in records:
        held.append(rows.pack(record)["layers"])
    assert held[0][0] is held[1][0] and held[1][1:] == [{"name": "b", "macs": 2}, 7.5]
    assert records[1] == {**with_layers(0, 2, 7.5), "rows": {"2": {"name": "b", "macs": 2}}}
    again = Rows(records[::-1])  # in whatever order they are read
    assert [again.unpack(record["structure"])["layers"] for record in records] == held
    with pytest.raises(ValueError, match="a row 9 that is nowhere"):
        again.unpack({"layers": [9]})


def test_rows_of_others_are_passed_over() -> None:
    odd = [3, {"rows": 3}, {"rows": {"x": {}, "1": 3, "2": {"name": []}, "9" * 5000: {}}}]
    rows = Rows(odd)
    assert rows.unpack({"layers": [{"name": []}, None]}) == {"layers": [{"name": []}, None]}
    assert rows.unpack({"layers": 3}) == rows.pack({"structure": {"layers": 3}}) == {"layers": 3}


def test_a_study_of_format_1_is_read_and_gone_on_with(tmp_path: Path) -> None:
    first, second = ({"name": name, "kind": "Conv2d", "macs": 3} for name in "ab")
    with new_study(tmp_path / "run") as study:
        study.record(Request(0, 0, point()), finished(0, 0, point(), 88.0, 1.5))
    edited(tmp_path / "run", "autoprune", lambda header: {**header, "format": 1})
    edited(tmp_path / "run", "record", lambda record: {**record, **with_layers(first, second)})
    with Study.open(tmp_path / "run", write=True) as study:
        evaluation = finished(1, 0, point(0.5), 87.0, 1.0)
        evaluation.structure = {"layers": [dict(second)]}  # the first row that gets a number
        study.record(Request(1, 0, point(0.5)), evaluation)
    journal = (tmp_path / "run" / "study.journal").read_text().splitlines()
    assert any('"autoprune":{"format":3' in line for line in journal)
    for found in (study, Study.open(tmp_path / "run")):
        old, new = (trial.structure["layers"] for trial in found.trials)
        assert old == [first, second] and new == [second] and old[1] is new[0]


@pytest.mark.parametrize("written", [1, 2])
def test_a_study_goes_on_with_the_widths_that_it_began_with(tmp_path: Path, written: int) -> None:
    targets = {
        "plain": "onnxruntime",
        "said": {"use": "onnxruntime", "channel_multiple": 16},
        "other": "torch",
    }
    new_study(tmp_path / "run", target=targets).close()
    edited(tmp_path / "run", "autoprune", lambda header: {**header, "format": written})
    for write in (True, False):  # the second time it is of today's format
        with Study.open(tmp_path / "run", write=write) as study:
            found = {name: one.arguments for name, one in study.spec.target.items()}
        assert found == {"plain": {"channel_multiple": 1}, "said": {"channel_multiple": 16}, "other": {}}


def test_a_new_study_keeps_to_the_spec(tmp_path: Path) -> None:
    new_study(tmp_path / "run", target="onnxruntime").close()
    with Study.open(tmp_path / "run", write=True) as study:
        assert [one.arguments for one in study.spec.target.values()] == [{}]


def test_choices_that_were_all_read_are_held_once(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        study.record(Request(0, 0, point()), finished(0, 0, point(), 88.0, 1.5))
        partly = finished(1, 0, point(0.5), 88.0, 1.5)
        partly.read = {"bits": 8}
        study.record(Request(1, 0, point(0.5)), partly)
    for found in (study, Study.open(tmp_path / "run")):
        whole, part = (trial.evaluations[0] for trial in found.trials)
        assert whole.read is whole.choices and part.read == {"bits": 8}
