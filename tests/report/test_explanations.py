"""Why a search came out so: importance, binding constraints, the front's slope."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from real_studies import BASELINE, SPACE, add_trials, layer_rows, make_spec, new_study

from autoprune.record import Evaluation, Request
from autoprune.report.explanations import (
    binding_constraints,
    explain,
    importance_of,
    slopes_of,
    step_in_words,
)
from autoprune.report.page import write_report
from autoprune.space import Options, Range, Space
from autoprune.study import Study


def add(study: Study, metrics: dict[str, float], point: dict[str, Any] | None = None, **changes: Any) -> int:
    """One more trial with these figures; returns its number."""
    number, point = len(study.trials), {**SPACE.neutral(), **(point or {})}
    found = Evaluation(number, 0, "finished", point, {"size_bytes": 5e5, **metrics}, read=point)
    found.structure = {"layers": layer_rows(point)}
    for name, value in changes.items():
        setattr(found, name, value)
    study.record(Request(number, 0, point), found)
    return number


def test_the_choice_that_decides_comes_first(tmp_path: Path) -> None:
    rng = random.Random(0)
    with new_study(tmp_path / "run") as study:
        for _ in range(60):
            point = {name: choice.at(rng.random()) for name, choice in SPACE.items()}
            accuracy = (
                98.0 - 4.0 * point["prune.stem.ratio"] - 0.5 * (point["quantize.head.weight_bits"] == 4)
            )
            add(study, {"accuracy": accuracy, "latency_ms": 0.1 * point["architecture.depth"]}, point)
        found = importance_of(study)
    accuracy, latency = found["objectives"]["accuracy"], found["objectives"]["latency_ms"]
    assert (found["rung"], found["trials"], found["of"]) == (0, 60, 60)
    assert accuracy[0]["choice"] == "prune.stem.ratio" and accuracy[0]["share"] > 0.6
    assert latency[0]["choice"] == "architecture.depth" and latency[0]["share"] > 0.9
    assert sum(row["share"] for row in accuracy) <= 1.0 + 1e-9 and len(accuracy) <= 10


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_an_objective_does_not_matter(tmp_path: Path, scale: float) -> None:
    rng = random.Random(0)
    with new_study(tmp_path / "run") as study:
        for _ in range(40):
            point = {name: choice.at(rng.random()) for name, choice in SPACE.items()}
            add(study, {"accuracy": 98.0, "latency_ms": scale * (1 + point["prune.stem.ratio"])}, point)
        found = importance_of(study)["objectives"]
    assert list(found) == ["latency_ms"]  # an accuracy that never changes depends on nothing
    assert found["latency_ms"][0]["choice"] == "prune.stem.ratio"


def test_few_trials_are_too_few_to_tell(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        for n in range(5):
            add(
                study,
                {"accuracy": 97.0 + n / 10, "latency_ms": 0.2 + n / 10},
                {"architecture.depth": 1 + n % 3},
            )
        assert importance_of(study)["objectives"] == {}
        assert "too few" in " ".join(explain(study)["sentences"])


def test_a_space_of_one_point_and_an_empty_study_are_explained(tmp_path: Path, empty: Study) -> None:
    assert explain(empty)["sentences"] == []
    space = Space({"architecture.depth": Options((3,), 3), "prune.stem.ratio": Range(0.5, 0.5, 0.5)})
    with Study.create(tmp_path / "run", make_spec(), space, {}, BASELINE) as study:
        for number in range(12):
            point = {"architecture.depth": 3, "prune.stem.ratio": 0.5}
            metrics = {"accuracy": 97.0, "latency_ms": 0.2, "size_bytes": 5e5}
            study.record(Request(number, 0, point), Evaluation(number, 0, "finished", point, metrics))
        assert importance_of(study)["objectives"] == {}
        assert write_report(study, tmp_path / "report.html").is_file()


def test_it_takes_seconds_at_a_thousand_trials_of_sixty_choices(tmp_path: Path) -> None:
    space = Space(
        {
            **{f"prune.l{i}.ratio": Range(0.0, 0.8, 0.0) for i in range(20)},
            **{f"quantize.l{i}.weight_bits": Options((4, 8, 32), 32) for i in range(40)},
        }
    )
    rng = random.Random(0)
    with Study.create(tmp_path / "run", make_spec(), space, {}, BASELINE) as study:
        for number in range(1200):
            point = {name: choice.at(rng.random()) for name, choice in space.items()}
            low = point["quantize.l3.weight_bits"] == 4
            metrics = {"accuracy": 98 - 5 * low - rng.random(), "latency_ms": rng.random(), "size_bytes": 5e5}
            request = Request(number, 0, point)
            study.log_request(request)
            study.log_evaluation(Evaluation(number, 0, "finished", point, metrics, read=point))
        start = time.process_time()
        found = importance_of(study)
        assert time.process_time() - start < 10
    assert (found["trials"], found["of"]) == (1000, 1200)
    assert found["objectives"]["accuracy"][0]["choice"] == "quantize.l3.weight_bits"


def test_a_constraint_is_told_by_what_it_alone_rules_out(tmp_path: Path) -> None:
    spec = make_spec(constraints=["accuracy >= 97", "size_bytes <= 60%", "latency_ms <= 1"])
    with new_study(tmp_path / "run", spec) as study:
        add(study, {"accuracy": 98.0, "latency_ms": 0.3})
        add(study, {"accuracy": 97.1, "latency_ms": 0.2})
        add(study, {"accuracy": 90.0, "latency_ms": 0.1})
        add(study, {"accuracy": 90.0, "latency_ms": 0.1, "size_bytes": 1e6})
        add(study, {"size_bytes": 1e6}, state="rejected")
        accuracy, size, latency = binding_constraints(study, study.best())
    assert (accuracy["ruled_out"], accuracy["alone"]) == (0.4, 0.2)
    assert (size["ruled_out"], size["alone"]) == (0.4, 0.2)
    assert (latency["ruled_out"], latency["active_at"]) == (0.0, [])


def test_a_constraint_is_active_where_the_front_ends_at_it(tmp_path: Path) -> None:
    with new_study(tmp_path / "run", make_spec(constraints=["accuracy >= 96"])) as study:
        for accuracy, latency in ((98.0, 0.5), (97.4, 0.3), (96.05, 0.1)):
            add(study, {"accuracy": accuracy, "latency_ms": latency})
        (row,) = binding_constraints(study, study.trial(1))
        assert row["active_at"] == ["the front's best latency_ms (trial 2)"]


def test_the_slope_says_what_more_of_a_cost_buys(tmp_path: Path) -> None:
    with new_study(tmp_path / "run", make_spec(constraints=[])) as study:
        for accuracy, latency in ((97.9, 0.5), (97.5, 0.4), (96.5, 0.3), (96.0, 0.45)):
            add(study, {"accuracy": accuracy, "latency_ms": latency})
        (slope,) = slopes_of(study, study.trial(1))
        assert [(step["from"], step["to"]) for step in slope["along"]] == [(2, 1), (1, 0)]
        assert slope["more"]["gain"] == pytest.approx(0.4) and slope["more"]["cost"] == pytest.approx(0.1)
        assert slope["more"]["per_unit"] == pytest.approx(4.0)
        assert slope["less"]["gain"] == pytest.approx(-1.0)
        sentences = " ".join(explain(study)["sentences"])
    assert "0.1 ms more buys 0.4 points of accuracy (trial 0)" in sentences
    assert "0.1 ms less costs 1 point of accuracy (trial 2)" in sentences


def test_what_no_measurement_tells_apart_is_no_step(tmp_path: Path) -> None:
    with new_study(tmp_path / "run", make_spec(constraints=["size_bytes <= 60%"])) as study:
        for accuracy, latency, size in ((96.0, 0.3, 3e5), (96.5, 0.301, 3.01e5), (98.0, 0.4, 4e5)):
            add(study, {"accuracy": accuracy, "latency_ms": latency, "size_bytes": size})
        latency, size = slopes_of(study, study.trial(0))
        assert [(step["from"], step["to"]) for step in latency["along"]] == [(1, 2)]
        assert latency["more"]["to"] == 2  # and not the one beside it
        assert [(step["from"], step["to"]) for step in size["along"]] == [(0, 1), (1, 2)]  # sizes are exact
        assert slopes_of(study, study.trial(1))[0]["less"] is None


def test_a_limited_cost_has_a_slope_too(tmp_path: Path) -> None:
    with new_study(tmp_path / "run", make_spec(constraints=["size_bytes <= 60%"])) as study:
        add(study, {"accuracy": 97.0, "latency_ms": 0.3, "size_bytes": 3e5})
        add(study, {"accuracy": 98.0, "latency_ms": 0.3, "size_bytes": 4e5})
        size = slopes_of(study, study.trial(0))[1]
        assert size["cost"] == "size_bytes" and size["more"]["per_unit"] == pytest.approx(1e-5)
        assert (
            step_in_words(size, "maximize", size["more"]) == "100 KB more buys 1 point of accuracy (trial 1)"
        )


def test_it_is_plain_data(searched: Study) -> None:
    found = explain(searched)
    assert list(found) == ["importance", "constraints", "slopes", "sentences"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_it_knows_nothing_of_other_rungs(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add_trials(study, 60)
        found = importance_of(study)
        at = [t for t in study.trials if found["rung"] in t.evaluations and t.has_result]
    assert found["of"] == len(at) < 60


def test_the_report_has_them_escaped(tmp_path: Path) -> None:
    space = Space({"architecture.<b>": Options((1, 2), 2), "prune.a.ratio": Range(0.0, 0.8, 0.0)})
    rng = random.Random(0)
    with Study.create(tmp_path / "run", make_spec(constraints=[]), space, {}, BASELINE) as study:
        for number in range(30):
            point = {name: choice.at(rng.random()) for name, choice in space.items()}
            metrics = {"accuracy": 90.0 + point["architecture.<b>"], "latency_ms": 0.1 + rng.random()}
            study.record(
                Request(number, 0, point), Evaluation(number, 0, "finished", point, metrics, read=point)
            )
        page = write_report(study, tmp_path / "report.html").read_text()
    assert "<h2>Why</h2>" in page and "architecture.&lt;b&gt;" in page
    assert "architecture.<b>" not in page
