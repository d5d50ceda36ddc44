import io

from real_studies import add_trials
from rich.console import Console

from autoprune.report.live import LineView, TerminalView, figures_of, live_view


def payload(study, number=None):
    given = {"status": study.status(), "busy": 2}
    return given if number is None else {**given, "trial": study.trial(number)}


def test_outside_of_a_terminal_there_are_plain_lines():
    assert isinstance(live_view(Console(file=io.StringIO())), LineView)
    assert isinstance(live_view(Console(file=io.StringIO(), force_terminal=True)), TerminalView)


def test_a_line_says_where_the_search_stands(searched):
    lines = []
    with LineView(lines.append) as view:
        view("evaluated", payload(searched, 0))
    (line,) = lines
    assert "trials 48 (" in line and "best trial" in line and "left 12 trials" in line


def test_lines_are_seconds_apart_but_failures_are_said_at_once(searched):
    lines = []
    view = LineView(lines.append, every=1000.0)
    for number in (0, 1, 8, 2):
        view("failed" if number == 8 else "evaluated", payload(searched, number))
    assert len(lines) == 2
    assert lines[1] == "trial 8 failed: train: ValueError: loss is nan"


def test_preparing_and_the_end_are_always_said(searched):
    lines = []
    view = LineView(lines.append, every=1000.0)
    view("preparing", {"what": "the profile"})
    view("evaluated", payload(searched, 0))
    view("finished", payload(searched))
    assert lines[0] == "preparing the profile" and lines[2] == "finished" and "front" in lines[3]


def test_a_terminal_shows_a_bar_figures_and_the_latest_notes(searched):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with live_view(console) as view:
        view("preparing", {"what": "the profile"})
        view("failed", payload(searched, 8))
    shown = screen.getvalue()
    for text in ("80%", "hypervolume", "loss is nan", "preparing the profile"):
        assert text in shown


def test_a_search_without_a_result_has_no_best_yet(empty):
    add_trials(empty, 0)
    lines = []
    LineView(lines.append)("started", payload(empty))
    assert "best none yet" in lines[0]


def test_a_line_of_a_pipe_is_one_line_and_no_markup(searched):
    pipe = io.StringIO()
    with live_view(Console(file=pipe, width=40)) as view:
        view("evaluated", payload(searched, 0))
        view("preparing", {"what": "[bold]this[/bold]"})
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 2 and lines[1] == "preparing [bold]this[/bold]"


def test_a_task_without_accuracy_shows_its_own_metrics_first(searched):
    status = searched.status()
    metrics = {"params": 10.0, "mse": 0.25, "r2": 0.5, "mae": 0.1, "latency_ms": 0.5}
    shown = figures_of({**status, "best": {"trial": 1, "metrics": metrics}})
    assert shown["best"] == "trial 1: mse 0.25, r2 0.5, latency_ms 0.5 ms"
