"""The report of a study: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from autoprune.errors import RunFolderError, SearchFailed
from autoprune.report.explanations import explain, gain_in_words, rate_in_words
from autoprune.report.figures import (
    Figure,
    front_chart,
    hypervolume_charts,
    importance_charts,
    layer_chart,
    outside,
)
from autoprune.report.readable import (
    change,
    duration,
    figure,
    limit,
    modelled,
    provenance,
    summary,
    with_deviation,
)
from autoprune.study import Study, Trial

MOST_REASONS = 8
SHOWN = ("accuracy", "latency_ms", "size_bytes", "params", "macs")

_SORT = """
for (const th of document.querySelectorAll("th.sorts")) th.onclick = () => {
  const body = th.closest("table").tBodies[0], column = th.cellIndex, up = th.dataset.up !== "1";
  const key = row => parseFloat(row.cells[column].dataset.value);
  th.dataset.up = up ? "1" : "";
  [...body.rows].sort((a, b) => (up ? 1 : -1) * (key(a) - key(b))).forEach(row => body.append(row));
};
"""


@dataclass(frozen=True)
class Exported:
    """An artifact of one trial of the study, or one for each of its targets.

    Attributes:
        trial: its number.
        folder: that holds it, or them.
        parts: target -> what its metrics.json says, the first target first; of a single artifact under "".
    """

    trial: int
    folder: Path
    parts: dict[str, dict[str, Any]]

    def figures(self, kind: str) -> dict[str, Any]:
        """`export` or `baseline` of the first target, and that of each by `metric@target`."""
        found = dict(next(iter(self.parts.values())).get(kind, {}))
        for name, metrics in self.parts.items() if len(self.parts) > 1 else ():
            found |= {f"{metric}@{name}": value for metric, value in metrics.get(kind, {}).items()}
        return found


def write_report(study: Study, path: str | Path) -> Path:
    """Write the report of a study; it can be rebuilt at any time, also while the search goes on.

    The chosen point is the trial that was exported last into the run folder (`export/<trial>`), else the best
    compromise of the front.

    Raises:
        RunFolderError: the file cannot be written.
    """
    path = Path(path)
    exported = latest_export(study)
    page = compose(study, chosen_trial(study, exported), exported)
    try:
        staging = path.with_name(f".{path.name}.part")
        staging.write_text(page, encoding="utf-8")
        staging.replace(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def latest_export(study: Study) -> Exported | None:
    """What was exported last under `export/` in the run folder, if any can be read."""
    found = [path for path in (study.folder / "export").glob("*") if path.name.isdecimal() and path.is_dir()]
    for folder in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        names = {"": folder} if len(study.spec.target) < 2 else {n: folder / n for n in study.spec.target}
        parts = {name: _metrics_in(one) for name, one in names.items()}
        if int(folder.name) < len(study.trials) and all(parts.values()):
            return Exported(int(folder.name), folder, parts)
    return None


def _metrics_in(folder: Path) -> dict[str, Any]:
    """What an artifact's metrics.json says; nothing where it cannot be read."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def chosen_trial(study: Study, exported: Exported | None) -> Trial | None:
    """The exported trial, else the best compromise that meets the constraints, None when there is none."""
    if exported is not None:
        return study.trial(exported.trial)
    try:
        return study.best()
    except SearchFailed:
        return None


def compose(study: Study, chosen: Trial | None, exported: Exported | None) -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    sections = [
        _header(study),
        _key_figures(study, chosen, exported),
        _front(study, chosen),
        _table(study, chosen),
        _explanations(study),
        _layers(study, chosen),
        _hypervolume(study),
        _counts(study),
        _parity(exported),
    ]
    body = "\n".join(f"<section>{section}</section>" for section in sections if section)
    title = escape(study.spec.name)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title} – autoprune</title>\n"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{style}</style>\n'
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n{body}\n{_footer(study)}\n"
        f"<script>{_SORT}</script>\n</body>\n</html>\n"
    )


def _header(study: Study) -> str:
    spec, status = study.spec, study.status()
    objectives = [f"{o.direction} <code>{escape(o.metric)}</code>" for o in spec.objectives]
    constraints = [f"<code>{escape(limit(c, study.baseline))}</code>" for c in spec.constraints]
    budget = [
        f"{one['spent']:.3g} of {one['limit']:g} {escape(name.replace('_', ' '))}"
        for name, one in status["budget"].items()
        if one["limit"] is not None
    ]
    rungs = ", ".join(f"{epochs:g}" for epochs in spec.rung_epochs)
    rows = {
        "task": f"<code>{escape(spec.task.use)}</code> on {_listed(spec.target)}",
        "objectives": ", ".join(objectives),
        "constraints": "<br>".join(constraints) or "none",
        "space": f"{len(study.space)} choices",
        "budget": f"{', '.join(budget)}; {duration(study.seconds)} of search",
        "search": f"sampler <code>{escape(spec.search.sampler)}</code>, epochs {rungs}, seed {spec.seed}",
        "machine": escape(str(study.provenance.get("machine", "unknown"))),
        "state": escape(f"{study.state}{': ' + study.reason if study.reason else ''}"),
    }
    rows |= {name: "<br>".join(map(escape, line.splitlines())) for name, line in modelled(status).items()}
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())
    return f'<h1>{escape(spec.name)}</h1><p class="soft">A search by autoprune</p><dl>{listed}</dl>'


def _listed(targets: Mapping[str, Any]) -> str:
    return ", ".join(f"<code>{escape(target.use)}</code>" for target in targets.values())


def _key_figures(study: Study, chosen: Trial | None, exported: Exported | None) -> str:
    if chosen is None:
        return (
            "<h2>No candidate yet</h2><p>No trial with a result meets every constraint; "
            "what was tried is below.</p>"
        )
    metrics, baseline, where = dict(chosen.metrics), dict(study.baseline), "validation split"
    if exported is not None:
        metrics |= exported.figures("export")
        baseline |= exported.figures("baseline")
        where = "test split, of the exported file"
    tiles = [_tile(name, baseline.get(name), metrics.get(name)) for name in _metrics_of(study, [metrics])]
    heading = f"<h2>The chosen point: trial {chosen.number}</h2>"
    seeds = len(chosen.validations) if chosen.is_revalidated and exported is None else 0
    means = f" Means over {seeds} seeds." if seeds else ""
    note = f'<p class="soft">Beside the uncompressed baseline. Task metrics on the {where}.{means}</p>'
    return heading + note + f'<div class="figures">{"".join(tiles)}</div>'


def _tile(name: str, baseline: float | None, value: float | None) -> str:
    gain, unit = _gain(name, baseline, value)
    values = escape(change(name, baseline, value))
    return (
        f"<div><small>{escape(name)}</small><strong>{escape(gain)} <em>{unit}</em></strong>"
        f"<small>{values}</small></div>"
    )


def _gain(name: str, baseline: float | None, value: float | None) -> tuple[str, str]:
    """What was gained over the baseline, and the word that goes with it."""
    if baseline is None or value is None:
        return figure(name, value), ""
    is_cost = name.endswith(("_ms", "_bytes", "_uj")) or name in ("params", "macs", "bops")
    if is_cost and value > 0:
        return f"{baseline / value:.2f}×", "faster" if name.endswith("_ms") else "less"
    difference = f"{value - baseline:+.2f}" if name == "accuracy" else f"{value - baseline:+.4g}"
    return difference.replace("-", "−"), "points" if name == "accuracy" else ""


def _metrics_of(study: Study, metrics: Iterable[Mapping[str, float]]) -> list[str]:
    """Objectives first, then what is constrained, then the usual ones, as far as they were measured."""
    named = [o.metric for o in study.spec.objectives] + [c.metric for c in study.spec.constraints]
    known = {name for one in metrics for name in one}
    return [name for name in dict.fromkeys([*named, *SHOWN]) if name in known]


def _front(study: Study, chosen: Trial | None) -> str:
    if not study.results:
        return ""
    drawn = front_chart(study, chosen)
    charts = "".join(_chart(f"front-{i}", chart) for i, chart in enumerate(drawn))
    note = "Every trial at its latest rung, on the validation split. Point at one to see its choices."
    if any(trial.is_revalidated for trial in study.trials):
        note += " Re-validated ones are at their means over several seeds."
    if far := outside(drawn[0]):
        note += f" {far} far worse ones lie outside of the frame; a double click shows them."
    return f'<h2>Front</h2><p class="soft">{note}</p>{charts}'


def _table(study: Study, chosen: Trial | None) -> str:
    front = study.front
    if not front:
        return ""
    names = _metrics_of(study, [trial.metrics for trial in front])
    head = "".join(f'<th class="sorts">{escape(name)}</th>' for name in ("trial", "rung", *names))
    rows = "".join(
        _row(trial, names, chosen is not None and trial.number == chosen.number) for trial in front
    )
    table = _html_table(f"{head}<th>choices</th>", rows)
    notes = "".join(f'<p class="soft">{escape(line)}</p>' for line in provenance(front, names))
    return f"<h2>The front as a table</h2>{table}{notes}"


def _explanations(study: Study) -> str:
    """Which choices mattered, which constraints bind, and what more of a cost would buy."""
    if not study.results:
        return ""
    found = explain(study)
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in found["sentences"])
    charts = "".join(
        f"<div>{_chart(f'importance-{i}', chart)}</div>"
        for i, chart in enumerate(importance_charts(found["importance"]))
    )
    note = "How much of each objective's variation a choice explains (mean decrease of impurity of a forest)."
    shown = f'<p class="soft">{note}</p><div class="pair">{charts}</div>' if charts else ""
    return f"<h2>Why</h2><ul>{sentences}</ul>{shown}{''.join(map(_slope, found['slopes']))}"


def _slope(slope: Mapping[str, Any]) -> str:
    """The steps along the front of one cost, from the cheapest on."""
    cost, quality = slope["cost"], slope["quality"]
    rows = "".join(
        f"<tr><td>{step['from']} → {step['to']}</td><td>{escape(figure(cost, step['cost']))}</td>"
        f"<td>{escape(gain_in_words(quality, step['gain']))}</td><td>{escape(rate_in_words(slope, step))}</td></tr>"
        for step in slope["along"]
    )
    if not rows:
        return ""
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("trials", f"more {cost}", f"gain in {quality}", "rate")
    )
    note = f"What more {escape(cost)} buys, from each trial on the front of the two to the next."
    return f'<p class="soft">{note}</p>{_html_table(head, rows)}'


def _html_table(head: str, rows: str) -> str:
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(trial: Trial, names: Sequence[str], is_chosen: bool) -> str:
    cells = [_cell(trial.number, str(trial.number)), _cell(trial.rung, str(trial.rung))]
    for name in names:
        value = trial.metrics.get(name)
        text = with_deviation(name, value, trial.deviations.get(name))
        cells.append(_cell("nan" if value is None else value, text))
    lines = escape(" · ".join(summary(trial.read or trial.choices)))
    mark = ' class="chosen"' if is_chosen else ""
    return f'<tr{mark}>{"".join(cells)}<td class="wide">{lines}</td></tr>'


def _cell(value: float | str, text: str) -> str:
    return f'<td data-value="{value}">{escape(text)}</td>'


def _layers(study: Study, chosen: Trial | None) -> str:
    if chosen is None:
        return ""
    chart = layer_chart(study.profile.get("layers", []), chosen.structure.get("layers", []))
    if chart is None:
        return ""
    note = "Channels that each layer of the uncompressed network has kept, and its bits."
    return (
        f'<h2>Layer by layer: trial {chosen.number}</h2><p class="soft">{note}</p>{_chart("layers", chart)}'
    )


def _hypervolume(study: Study) -> str:
    if not study.results:
        return ""
    over_trials, over_time = hypervolume_charts(study)
    note = "How much of the objectives the front covers, in shares of the baseline; more is better."
    charts = f"<div>{_chart('over-trials', over_trials)}</div><div>{_chart('over-time', over_time)}</div>"
    return f'<h2>Hypervolume</h2><p class="soft">{note}</p><div class="pair">{charts}</div>'


def _counts(study: Study) -> str:
    states = Counter(trial.state for trial in study.trials)
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none"
    reasons = Counter(
        (trial.state, _cause(trial)) for trial in study.trials if trial.state in ("rejected", "failed")
    )
    rows = "".join(
        f"<tr><td>{count}</td><td>{state}</td><td class='wide'>{escape(reason)}</td></tr>"
        for (state, reason), count in reasons.most_common(MOST_REASONS)
    )
    table = _html_table("<th>trials</th><th>state</th><th>reason</th>", rows)
    note = "Stopped ones ended before the last rung; rejected ones broke a constraint before any training."
    return f'<h2>Trials</h2><p>{counted}. <span class="soft">{note}</span></p>{table if rows else ""}'


def _cause(trial: Trial) -> str:
    """A reason without the figures in which trials of one cause differ."""
    return "; ".join(part.split(" (got ")[0] for part in trial.reason.split("; "))[:300]


def _parity(exported: Exported | None) -> str:
    if exported is None:
        return ""
    rows, examples = "", "?"
    for target, metrics in exported.parts.items():
        parity = metrics.get("parity") or {}
        examples = parity.get("examples", examples)
        for name, found in parity.items():
            if isinstance(found, Mapping) and "difference" in found:
                title = "module from autoprune.load" if name == "module" else f"{name} file, by itself"
                rows += _parity_row(f"{target}: {title}" if target else title, found)
    if not rows:
        return ""
    head = "".join(
        f"<th>{name}</th>" for name in ("read as", "predictions agree", "metrics differ by", "outputs")
    )
    return (
        "<h2>The exported file is the measured model</h2>"
        f"<p>Artifact <code>{escape(str(exported.folder))}</code>, compared on "
        f"{examples} examples of the test split.</p>{_html_table(head, rows)}"
    )


def _parity_row(title: str, found: Mapping[str, Any]) -> str:
    agreement = f"{found['agreement']:.2f} %" if "agreement" in found else "–"
    differences = ", ".join(f"{name} {value:+.3g}" for name, value in found.get("difference", {}).items())
    error = f"{found.get('relative_error', 0.0):.2g} relative error"
    cells = (title, agreement, differences, error)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _footer(study: Study) -> str:
    known = study.provenance
    versions = ", ".join(f"{name} {version}" for name, version in known.get("versions", {}).items())
    parts = [f"started {known.get('started', '?')}", versions, f"python {known.get('python', '?')}"]
    if known.get("revision"):
        parts.append(f"revision {known['revision']}")
    return f"<footer>{escape(' · '.join(parts))}<br><code>{escape(str(study.folder))}</code></footer>"


def _chart(name: str, chart: Figure) -> str:
    from plotly.io import to_html

    return str(
        to_html(
            {**chart, "layout": {**chart["layout"], "template": "none"}},
            include_plotlyjs=False,
            full_html=False,
            div_id=name,
            default_height=f"{chart['layout']['height']}px",
            config={"displayModeBar": False, "responsive": True},
        )
    )
