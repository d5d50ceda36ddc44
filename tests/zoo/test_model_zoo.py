"""The zoo's runner: processes that end, results that are kept, and promises that are counted."""

from __future__ import annotations

import json

import model_zoo


def row(name: str, ours: str, plain: str = "fails", **more: str) -> model_zoo.Result:
    timed = {"seconds": 1.0, "reason": ""}
    sides = {"ours": {"verdict": ours, **timed}, "plain": {"verdict": plain, **timed, **more}}
    return {"name": name, "family": "residual", "transformer": False, **sides}


def test_a_model_that_takes_too_long_is_ended():
    found = model_zoo.in_process("convolutions:residual", "ours", 0.2)
    assert found["verdict"] == "timeout"
    assert "0 s" in found["reason"]


def test_a_process_that_dies_is_a_traceback_with_its_last_words():
    found = model_zoo.in_process("no:such_model", "ours", 60)
    assert found["verdict"] == "traceback"
    assert "ValueError" in found["reason"]


def test_results_are_kept_and_sides_are_joined(tmp_path):
    file = tmp_path / "results.json"
    first = row("a", "passes")
    model_zoo.Results(file).add({key: value for key, value in first.items() if key != "plain"})
    known = model_zoo.Results(file)
    known.add({key: value for key, value in first.items() if key != "ours"})
    assert known.get("a", "ours") == first["ours"]
    assert known.get("b", "ours") is None
    assert json.loads(file.read_text()) == [first]


def test_the_promise_is_nine_of_ten(capsys):
    passes = [row(str(i), "passes") for i in range(9)]
    assert model_zoo.summary([*passes, row("x", "partial")], ["ours"])
    assert not model_zoo.summary([*passes[1:], row("x", "partial"), row("y", "partial")], ["ours"])
    assert "90%" in capsys.readouterr().out


def test_one_traceback_or_wrong_cut_breaks_the_promise(capsys):
    passes = [row(str(i), "passes") for i in range(99)]
    for verdict in ("traceback", "wrong"):
        assert not model_zoo.summary([*passes, row("x", verdict)], ["ours"])


def test_what_passes_and_is_wrong_is_told_apart():
    rows = [row("a", "passes", "passes"), row("b", "passes", "passes", wrong="differs")]
    assert model_zoo.share(rows, "plain") == 1.0
    assert model_zoo.share(rows, "plain", right=True) == 0.5


def test_models_whose_library_is_absent_do_not_count():
    assert model_zoo.share([row("a", "passes"), row("b", "not built")], "ours") == 1.0
