import json
import re

import pytest
from real_studies import BASELINE, add_trials, make_spec, new_study

from autoprune.errors import RunFolderError
from autoprune.record import Evaluation, Request
from autoprune.report import page, write_report


def without_plotly(html: str) -> str:
    """The page without the library that is embedded in it."""
    return re.sub(r"<script>.{100000,}?</script>", "", html, flags=re.DOTALL)


@pytest.fixture(scope="module")
def html(searched, tmp_path_factory) -> str:
    path = write_report(searched, tmp_path_factory.mktemp("report") / "report.html")
    return without_plotly(path.read_text(encoding="utf-8"))


def test_the_report_is_one_file_that_asks_for_no_other(searched, tmp_path):
    text = write_report(searched, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in text and len(text) > 3_000_000
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", without_plotly(text))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_report_says_what_was_asked(html):
    for text in (
        "maximize <code>accuracy</code>",
        "size_bytes &lt;= 60% (≤ 744 KB)",
        "of 60 trials",
        "seed 0",
    ):
        assert text in html


def test_the_report_has_every_section(html):
    for title in (
        "The chosen point",
        "Front",
        "The front as a table",
        "Layer by layer",
        "Hypervolume",
        "Trials",
    ):
        assert f"<h2>{title}" in html


def test_the_table_has_a_row_for_each_trial_of_the_front(searched, html):
    body = html.split("The front as a table")[1].split("</table>")[0]
    assert body.count("<tr") - 1 == len(searched.front)
    assert body.count('class="chosen"') == 1


def test_reasons_are_counted_without_their_figures(html):
    assert "<td>6</td><td>failed</td><td class='wide'>train: ValueError: loss is nan</td>" in html
    assert "<td>rejected</td><td class='wide'>size_bytes &lt;= 60%</td>" in html


def test_an_exported_trial_is_the_chosen_point_with_its_test_figures(tmp_path):
    with new_study(tmp_path / "run") as study:
        add_trials(study, 10)
    folder = study.folder / "export" / "3"
    folder.mkdir(parents=True)
    reader = {"agreement": 99.72, "difference": {"accuracy": -0.05}, "relative_error": 0.003}
    metrics = {
        "export": {**study.trial(3).metrics, "accuracy": 97.0},
        "baseline": {**BASELINE, "accuracy": 98.0},
        "parity": {"examples": 360, "onnx": reader, "module": reader},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = without_plotly(write_report(study, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "The chosen point: trial 3" in text and "−1.00 <em>points</em>" in text
    assert "test split, of the exported file" in text
    assert "99.72 %" in text and "360 examples" in text


@pytest.mark.parametrize(("name", "content"), [("3", "{"), ("3", "[]"), ("99", "{}"), ("best", "{}")])
def test_an_export_that_cannot_be_read_is_left_out(tmp_path, name, content):
    with new_study(tmp_path / "run") as study:
        add_trials(study, 5)
    (study.folder / "export" / name).mkdir(parents=True)
    (study.folder / "export" / name / "metrics.json").write_text(content)
    assert page.latest_export(study) is None


def test_artifacts_of_several_targets_are_found_together(tmp_path):
    targets = {"here": "onnxruntime", "board": {"use": "table", "table": "board.csv"}}
    with new_study(tmp_path / "run", make_spec(target=targets)) as study:
        add_trials(study, 5)
    reader = {"agreement": 99.9, "difference": {"accuracy": 0.0}, "relative_error": 0.001}
    for name, latency in (("here", 2.0), ("board", 9.0)):
        folder = study.folder / "export" / "3" / name
        folder.mkdir(parents=True)
        metrics = {"export": {"latency_ms": latency}, "parity": {"examples": 360, "openvino": reader}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    found = page.latest_export(study)
    assert found.figures("export") == {"latency_ms": 2.0, "latency_ms@here": 2.0, "latency_ms@board": 9.0}
    text = without_plotly(write_report(study, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "board: openvino file, by itself" in text and "The chosen point: trial 3" in text
    (study.folder / "export" / "3" / "board" / "metrics.json").unlink()
    assert page.latest_export(study) is None  # half of it


def test_an_export_without_parity_has_no_section_for_it(searched):
    exported = page.Exported(0, searched.folder, {"": {}})
    assert "measured model" not in page.compose(searched, None, exported)


def test_a_study_without_results_still_has_a_report(empty, tmp_path):
    text = without_plotly(write_report(empty, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "No candidate yet" in text and "newPlot" not in text


def test_without_a_feasible_trial_the_rest_is_shown(tmp_path):
    with new_study(tmp_path / "run", make_spec(constraints=["latency_ms <= 0.000001"])) as study:
        add_trials(study, 5)
    text = without_plotly(write_report(study, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "No candidate yet" in text and "breaks a constraint" in text and "as a table" not in text


def test_strings_from_outside_are_escaped(empty, tmp_path):
    attack = "<script>alert(1)</script>"
    point = empty.space.neutral()
    broken = Evaluation(0, 0, "failed", point, reason=attack)
    empty.record(Request(0, 0, point), broken)
    metrics = {**BASELINE, "<b>own</b>": 1.0}
    layers = [{"name": attack, "channels": 4, "weight_bits": 8, "activation_bits": 8}]
    fine = Evaluation(
        1, 2, "finished", point, metrics, read={"architecture.x": attack}, structure={"layers": layers}
    )
    fine.metrics["size_bytes"] = 1000.0
    empty.record(Request(1, 2, point), fine)
    text = without_plotly(write_report(empty, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert attack not in text and "<b>own" not in text
    assert text.count("alert(1)") >= 3


def test_strings_of_a_spec_are_escaped(tmp_path):
    attack = "</script><script>alert(1)</script>"
    spec = make_spec(
        task=f"mine{attack}:Task",
        target=f"mine{attack}:Target",
        search={"rungs": [0, 1, 3], "sampler": f"mine{attack}:Sampler"},
    )
    with new_study(tmp_path / "run", spec) as study:
        add_trials(study, 3)
        text = without_plotly(write_report(study, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert attack not in text and text.count("alert(1)") >= 3


@pytest.mark.parametrize(
    ("name", "baseline", "value", "gain"),
    [
        ("latency_ms", 0.4, 0.1, ("4.00×", "faster")),
        ("size_bytes", 100.0, 20.0, ("5.00×", "less")),
        ("accuracy", 98.0, 97.5, ("−0.50", "points")),
        ("r2", 0.5, 0.75, ("+0.25", "")),
        ("r2", None, 0.75, ("0.75", "")),
    ],
)
def test_a_gain_is_in_the_words_of_its_metric(name, baseline, value, gain):
    assert page._gain(name, baseline, value) == gain


def test_a_report_that_cannot_be_written_is_refused(empty, tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(empty, tmp_path / "nowhere" / "report.html")
