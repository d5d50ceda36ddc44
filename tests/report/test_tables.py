import csv
import io

from real_studies import BASELINE, LAYERS, SPACE, layer_rows
from rich.console import Console

from autoprune.report import tables

PROFILE = {
    "choices": {
        **SPACE.to_json(),
        "train.learning_rate": {"low": 0.01, "high": 0.1, "neutral": 0.05, "step": None, "log": True},
        "architecture.width": {"low": 0.5, "high": 1.0, "neutral": 1.0, "step": 0.25, "log": False},
    },
    "techniques": {
        "prune": {
            "groups": [
                {"name": "stem", "layers": ["stem", "block.0"], "channels": 32, "reason": ""},
                {"name": "head", "layers": ["head"], "channels": 10, "reason": "the outputs of the model"},
            ]
        },
        "quantize": {
            "layers": [
                {"name": "stem", "kind": "Conv2d", "reason": ""},
                {"name": "gate[0]", "kind": "Linear", "reason": "excluded"},
            ]
        },
    },
    "baseline": BASELINE,
    "layers": layer_rows(),
    "ranges": {"size_bytes": (20_000.0, 1_240_000.0), "latency_ms": (0.05, 0.42)},
    "seconds": {"per_epoch": 1.25, "per_evaluation": 0.8},
    "problems": ["constraints: size_bytes <= 1%: cannot be met"],
}


def printed(show, *arguments) -> str:
    console = Console(file=io.StringIO(), width=160)
    show(console, *arguments)
    return console.file.getvalue()


def test_a_profile_shows_ranges_choices_groups_and_layers():
    text = printed(tables.print_profile, PROFILE)
    for expected in (
        "1.24 MB",
        "20 KB",
        "1, 2, 3",
        "0 to 0.8",
        "stem, block.0",
        "4, 8, 32",
        "takes 1.2 s here",
    ):
        assert expected in text
    assert "0.01 to 0.1 (logarithmic)" in text and "0.5 to 1 in steps of 0.25" in text


def test_a_profile_says_why_something_is_frozen_or_cannot_be_met():
    text = printed(tables.print_profile, PROFILE)
    assert "frozen: the outputs of the model" in text
    assert "float: excluded" in text and "gate[0]" in text
    assert "size_bytes <= 1%: cannot be met" in text


def test_a_profile_without_techniques_shows_no_empty_tables():
    text = printed(
        tables.print_profile, {"choices": {}, "techniques": {}, "baseline": BASELINE, "ranges": {}}
    )
    assert "Groups" not in text and "Layers" not in text and "accuracy" in text


def test_status_and_front_are_readable(searched, empty):
    assert "12 trials" in printed(tables.print_status, searched)
    text = printed(tables.print_front, searched)
    assert text.count("prune ratio") == len(searched.front)
    assert "best         none yet" in printed(tables.print_status, empty)
    assert "The front is empty" in printed(tables.print_front, empty)


def test_csv_has_a_column_for_each_metric_and_choice(searched):
    rows = list(csv.DictReader(io.StringIO(tables.front_csv(searched))))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in searched.front]
    assert float(rows[0]["latency_ms"]) == searched.front[0].metrics["latency_ms"]
    assert {f"quantize.{layer}.weight_bits" for layer in LAYERS} <= set(rows[0])


def test_rows_of_the_front_are_plain_data(searched):
    row = tables.front_rows(searched)[0]
    assert set(row) - {"unstable"} == {"trial", "rung", "metrics", "sources", "choices"}


def test_a_front_says_what_is_modelled_and_whose_times_were_not_steady(searched):
    unsteady = [row["trial"] for row in tables.front_rows(searched) if row.get("unstable")]
    text = printed(tables.print_front, searched)
    assert "bops: modelled: by hand" in text and len(unsteady) > 0
    assert "energy_uj" not in text
    assert f"the times of trial {', '.join(map(str, unsteady))};" in text


def test_checks_and_listing_print_one_line_each():
    class Check:
        def __init__(self, name, ok, message=""):
            self.name, self.ok, self.message = name, ok, message

    text = printed(tables.print_checks, [Check("runs", True), Check("is neutral", False, "moved by [1]")])
    assert text == "ok      runs\nBROKEN  is neutral\n        moved by [1]\n"
    assert "tpe, random" in printed(tables.print_listing, {"sampler": ["tpe", "random"]})


def test_a_pipe_is_wide_enough_for_a_table():
    assert tables.make_console().width >= 80
