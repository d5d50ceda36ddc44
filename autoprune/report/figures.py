"""The charts of a report, as plain data in the form that plotly draws. Pure functions of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from autoprune.constraint import Objective
from autoprune.report.readable import figure, summary
from autoprune.study import Study, Trial

Figure = dict[str, Any]
Layers = Sequence[Mapping[str, Any]]

# Readable on white and on near-black alike, and told apart without seeing red or green.
INK, FAINT, GRID = "#7c8594", "rgba(124,133,148,.45)", "rgba(124,133,148,.18)"
ACCENT, WARM = "#3b7dd8", "#d9822b"
LONGEST_HOVER = 90
LAYER_HEIGHT = 22
SMALLEST_FRAME = 0.05


def front_chart(study: Study, chosen: Trial | None) -> list[Figure]:
    """Every trial with a result, the front, the baseline and the chosen point.

    One chart for each objective after the first, with that one across and the first up; with a single
    objective, its value over the trials.
    """
    first, *others = study.spec.objectives
    return [_scatter(study, other, first, chosen) for other in others] or [_sequence(study, first, chosen)]


def _scatter(study: Study, across: Objective, up: Objective, chosen: Trial | None) -> Figure:
    def points(trials: Sequence[Trial], name: str, **style: Any) -> Figure:
        return _points([t.metrics.get(across.metric) for t in trials], trials, up, name, style)

    front = sorted(study.front, key=lambda t: t.metrics[across.metric])
    on_front = {trial.number for trial in front}
    rest = [trial for trial in study.results if trial.number not in on_front]
    broken = [trial for trial in rest if not trial.is_feasible]
    data = [
        points(broken, "breaks a constraint", marker=_marker(FAINT, 7, "circle-open")),
        points([t for t in rest if t.is_feasible], "dominated", marker=_marker(FAINT, 7)),
        points(front, "front", mode="lines+markers", marker=_marker(ACCENT, 9), line=_line(ACCENT)),
    ]
    data += _chosen(chosen, [chosen.metrics.get(across.metric)] if chosen else [], up)
    base = study.baseline
    if across.metric in base and up.metric in base:
        text = f"uncompressed baseline<br>{_figures(base, [up, across])}"
        data.append(
            _single(base[across.metric], base[up.metric], "baseline", text, _marker(WARM, 12, "diamond"))
        )
    layout = _layout(_title(across), _title(up), 420)
    layout["yaxis"]["range"] = _frame([*front, *([chosen] if chosen else [])], study, up)
    return {"data": [one for one in data if one["x"]], "layout": layout}


def _frame(shown: Sequence[Trial], study: Study, up: Objective) -> list[float] | None:
    """The range in which front and baseline can be told apart; None where there is no front.

    Trials that are far worse than all of them are left outside, or they would press the front flat.
    """
    values = [trial.metrics[up.metric] for trial in shown] + [study.baseline[up.metric]]
    if not shown:
        return None
    low, high = min(values), max(values)
    room = max(high - low, SMALLEST_FRAME * abs(high), 1e-12)
    slack = 0.12 * room
    return [low - room, high + slack] if up.direction == "maximize" else [low - slack, high + room]


def outside(chart: Figure) -> int:
    """How many points a chart leaves outside of its frame."""
    frame = chart["layout"]["yaxis"].get("range")
    if frame is None:
        return 0
    return sum(
        1 for trace in chart["data"] for y in trace["y"] if y is not None and not frame[0] <= y <= frame[1]
    )


def _sequence(study: Study, objective: Objective, chosen: Trial | None) -> Figure:
    numbers: list[float | None] = [trial.number for trial in study.results]
    style = {"marker": _marker(ACCENT, 8)}
    data = [_points(numbers, study.results, objective, "trials", style)]
    data += _chosen(chosen, [chosen.number] if chosen else [], objective)
    return {"data": data, "layout": _layout("trial", _title(objective), 380)}


def _points(
    across: Sequence[float | None],
    trials: Sequence[Trial],
    up: Objective,
    name: str,
    style: Mapping[str, Any],
) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(across),
        "y": [trial.metrics.get(up.metric) for trial in trials],
        "text": [hover(trial) for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
        **style,
    }


def _chosen(chosen: Trial | None, across: Sequence[float | None], up: Objective) -> list[Figure]:
    if chosen is None:
        return []
    return [
        _points(
            across, [chosen], up, f"chosen: trial {chosen.number}", {"marker": _marker(ACCENT, 18, "star")}
        )
    ]


def _single(x: float, y: float, name: str, text: str, marker: Figure) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x],
        "y": [y],
        "text": [text],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }


def hover(trial: Trial) -> str:
    """What the mouse shows of a trial: figures, then the choices that were read, compact and escaped."""
    figures = [f"{name} {figure(name, value)}" for name, value in trial.metrics.items()]
    rung = f"rung {trial.rung}{'' if trial.is_feasible else ', breaks a constraint'}"
    lines = [f"trial {trial.number} ({rung})", *_wrapped(", ".join(figures))]
    for line in summary(trial.read or trial.choices):
        lines += _wrapped(line)
    return "<br>".join(escape(line) for line in lines)


def _wrapped(line: str) -> list[str]:
    import textwrap

    return textwrap.wrap(line, LONGEST_HOVER) or [""]


def _figures(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> str:
    return ", ".join(f"{escape(o.metric)} {figure(o.metric, metrics.get(o.metric))}" for o in objectives)


def hypervolume_charts(study: Study) -> tuple[Figure, Figure]:
    """Hypervolume over the trials, and over the minutes of search."""
    rows = study.hypervolume_history()
    volumes = [volume for _, _, volume in rows]
    return (
        _steps([float(count) for count, _, _ in rows], volumes, "trials"),
        _steps([seconds / 60 for _, seconds, _ in rows], volumes, "minutes"),
    )


def _steps(x: Sequence[float], y: Sequence[float], title: str) -> Figure:
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "line": {**_line(ACCENT), "shape": "hv"},
        "fill": "tozeroy",
        "fillcolor": "rgba(59,125,216,.12)",
        "hovertemplate": f"%{{x:.4g}} {title}: %{{y:.4g}}<extra></extra>",
    }
    layout = _layout(title, "hypervolume", 260)
    layout["yaxis"]["rangemode"] = "tozero"
    layout["showlegend"] = False
    return {"data": [line], "layout": layout}


def importance_charts(importance: Mapping[str, Any]) -> list[Figure]:
    """For each objective the choices that mattered most to it, the first on top.

    Args:
        importance: what `explanations.importance_of` gives.
    """
    return [_importance(metric, rows) for metric, rows in importance["objectives"].items() if rows]


def _importance(metric: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    names = [escape(str(row["choice"])) for row in rows]
    bars = _bars(names, [100 * row["share"] for row in rows], ACCENT, metric, {"width": 0.7})
    bars |= {"hoverinfo": "all", "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>"}
    layout = _layout(f"% of {escape(metric)}", "", 90 + LAYER_HEIGHT * len(rows))
    layout |= {"showlegend": False, "margin": {**layout["margin"], "l": 10}}
    layout["xaxis"]["rangemode"] = "tozero"
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True, "type": "category", "showgrid": False}
    return {"data": [bars], "layout": layout}


def layer_chart(baseline: Layers, chosen: Layers) -> Figure | None:
    """Channels kept of each layer of the baseline, and its bits; None where no layers are known.

    Args:
        baseline: rows of `cost.layer_table` for the uncompressed network.
        chosen: the same for the chosen candidate; layers that it has not are shown as empty.
    """
    kept = {row["name"]: row for row in chosen}
    rows = [dict(row) for row in baseline]
    rows += [{**row, "channels": 0} for row in chosen if row["name"] not in {r["name"] for r in rows}]
    if not rows or not kept:
        return None
    names = [escape(str(row["name"])) for row in rows]
    mine = [kept.get(row["name"]) for row in rows]
    bars = [
        _bars(names, [row["channels"] for row in rows], FAINT, "uncompressed", {"width": 0.7}),
        _bars(
            names, [row["channels"] if row else 0 for row in mine], ACCENT, "channels kept", {"width": 0.42}
        )
        | {"text": [_channels(row, own) for row, own in zip(rows, mine, strict=True)], "textposition": "none"}
        | {"hovertemplate": "%{y}: %{text}<extra></extra>"},
        _bits(names, mine, "weight_bits", "weight bits", ACCENT),
        _bits(names, mine, "activation_bits", "activation bits", WARM),
    ]
    layout = _layout("channels", "", 90 + LAYER_HEIGHT * len(rows))
    layout |= {"barmode": "overlay", "margin": {**layout["margin"], "l": 10}}
    layout["xaxis"]["domain"] = [0.0, 0.62]
    layout["xaxis2"] = {**layout["xaxis"], "title": {"text": "bits"}, "domain": [0.68, 1.0]}
    layout["xaxis2"] |= {"type": "log", "tickvals": [2, 4, 8, 16, 32], "range": [0.25, 1.57]}
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True, "type": "category", "showgrid": False}
    return {"data": bars, "layout": layout}


def _bars(names: Sequence[str], values: Sequence[float], color: str, name: str, style: Figure) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(names),
        "x": list(values),
        "marker": {"color": color},
        "hoverinfo": "skip",
        **style,
    }


def _channels(row: Mapping[str, Any], own: Mapping[str, Any] | None) -> str:
    if own is None:
        return f"removed ({row['channels']} channels)"
    return f"{own['channels']} of {row['channels'] or own['channels']} channels"


def _bits(
    names: Sequence[str], rows: Sequence[Mapping[str, Any] | None], field: str, title: str, color: str
) -> Figure:
    # One is drawn inside the other, so that equal bits show both.
    marker = _marker(color, 8, "square") if field == "weight_bits" else _marker(color, 15, "diamond-open")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": title,
        "xaxis": "x2",
        "y": list(names),
        "x": [row[field] if row else None for row in rows],
        "marker": marker,
        "hovertemplate": f"%{{y}}: %{{x}} {title}<extra></extra>",
    }


def _marker(color: str, size: int, symbol: str = "circle") -> Figure:
    return {"color": color, "size": size, "symbol": symbol, "line": {"color": color, "width": 1.5}}


def _line(color: str) -> Figure:
    return {"color": color, "width": 2}


def _title(objective: Objective) -> str:
    better = "lower" if objective.direction == "minimize" else "higher"
    return f"{escape(objective.metric)} ({better} is better)"


def _layout(across: str, up: str, height: int) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "outside", "tickcolor": GRID}
    return {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "xaxis": {**axis, "title": {"text": across}},
        "yaxis": {**axis, "title": {"text": up}, "automargin": True},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"align": "left", "font": {"family": "ui-monospace, monospace", "size": 12}},
        "showlegend": True,
    }
