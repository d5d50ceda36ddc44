import plotly.graph_objects as go
import pytest
from real_studies import BASELINE, add_trials, layer_rows, make_spec, new_study

from autoprune.record import Evaluation, Request
from autoprune.report import figures


def by_name(chart):
    return {trace["name"]: trace for trace in chart["data"]}


def test_every_trial_with_a_result_is_in_the_front_chart_once(searched):
    (chart,) = figures.front_chart(searched, None)
    traces = by_name(chart)
    shown = [len(traces[name]["x"]) for name in ("breaks a constraint", "dominated", "front")]
    assert sum(shown) == len(searched.results)
    assert len(traces["front"]["x"]) == len(searched.front)


def test_the_front_chart_marks_baseline_and_chosen_point(searched):
    chosen = searched.front[0]
    (chart,) = figures.front_chart(searched, chosen)
    assert by_name(chart)["baseline"]["y"] == [searched.baseline["accuracy"]]
    assert by_name(chart)[f"chosen: trial {chosen.number}"]["x"] == [chosen.metrics["latency_ms"]]


@pytest.mark.parametrize(("count", "charts"), [(1, 1), (2, 1), (3, 2)])
def test_there_is_a_chart_for_each_objective_after_the_first(tmp_path, count, charts):
    directions = {"accuracy": "maximize", "latency_ms": "minimize", "size_bytes": "minimize"}
    spec = make_spec(objectives=dict(list(directions.items())[:count]))
    with new_study(tmp_path / "run", spec) as study:
        add_trials(study, 8)
        drawn = figures.front_chart(study, study.best())
    assert len(drawn) == charts
    for chart in drawn:
        go.Figure(chart)  # plotly's own validation


def test_far_worse_trials_do_not_press_the_front_flat(tmp_path):
    with new_study(tmp_path / "run") as study:
        add_trials(study, 12)
        point = study.space.neutral()
        lost = Evaluation(12, 0, "finished", point, {**BASELINE, "accuracy": 10.0})
        study.record(Request(12, 0, point), lost)
    (chart,) = figures.front_chart(study, None)
    low, high = chart["layout"]["yaxis"]["range"]
    assert 80 < low < study.front[-1].metrics["accuracy"] and high > BASELINE["accuracy"]
    assert figures.outside(chart) == 1


def test_hovering_shows_compact_choices_escaped(searched):
    trial = searched.front[0]
    trial.evaluations[trial.rung].read["architecture.note"] = "<script>"
    text = figures.hover(trial)
    assert "prune ratio" in text and "&lt;script&gt;" in text and "<script>" not in text
    del trial.evaluations[trial.rung].read["architecture.note"]


def test_hypervolume_grows_over_trials_and_time(searched):
    over_trials, over_time = figures.hypervolume_charts(searched)
    assert over_trials["data"][0]["x"][-1] == len(searched.results)
    assert over_trials["data"][0]["y"][-1] == pytest.approx(searched.hypervolume())
    assert over_time["data"][0]["x"] == sorted(over_time["data"][0]["x"])


def test_the_layer_chart_shows_what_each_layer_kept():
    point = {"architecture.depth": 1, "prune.stem.ratio": 0.5}
    point |= {
        f"quantize.{layer}.{kind}": 8
        for layer in ("stem", "block.0", "block.1", "head")
        for kind in ("weight_bits", "activation_bits")
    }
    chart = figures.layer_chart(layer_rows(), layer_rows(point))
    traces = by_name(chart)
    assert traces["uncompressed"]["x"] == [32, 64, 64, 10]
    assert traces["channels kept"]["x"] == [16, 64, 0, 10]
    assert traces["channels kept"]["text"][2] == "removed (64 channels)"
    assert traces["weight bits"]["x"] == [8, 8, None, 8]
    go.Figure(chart)


def test_a_layer_that_only_the_candidate_has_is_shown():
    chart = figures.layer_chart(layer_rows()[:1], layer_rows()[:2])
    assert by_name(chart)["channels kept"]["text"] == ["32 of 32 channels", "64 of 64 channels"]


def test_without_layers_there_is_no_chart():
    assert figures.layer_chart([], []) is None
