"""Tables of the command line: profile, status, front, checks and what is built in, on a rich console."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoprune.report.explanations import explain
from autoprune.report.live import figures_of
from autoprune.report.readable import (
    budget_left,
    duration,
    figure,
    limit,
    modelled,
    provenance,
    rungs,
    spent,
    summary,
    with_deviation,
)
from autoprune.space import kind_of

if TYPE_CHECKING:
    from autoprune.study import Study, Trial

LAYER_CHOICES = ("ratio", "weight_bits", "activation_bits")


class Checked(Protocol):
    """The outcome of one contract test."""

    @property
    def name(self) -> str:
        """What was promised."""
        ...

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        ...

    @property
    def message(self) -> str:
        """What is wrong if it does not."""
        ...


def make_console() -> Console:
    """A console on standard output that never breaks names or numbers, whatever the width of a pipe."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: object) -> None:
    # As text: names in square brackets are no markup.
    table.add_row(*(Text(str(cell)) for cell in cells))


def print_profile(console: Console, profile: Mapping[str, Any]) -> None:
    """What is achievable: ranges of the metrics, the space, what is frozen and why, what it will cost.

    Args:
        console: where to print.
        profile: what `autoprune.profile` returns.
    """
    tables = [_ranges(profile), _architecture(profile["choices"]), _groups(profile), _quantizable(profile)]
    for table in tables:
        if table.row_count:
            console.print(table)
            console.print()
    for warning in profile.get("warnings", ()):
        console.print(Text(warning), style="yellow")
    seconds = profile.get("seconds", {})
    if seconds:
        console.print(
            f"One epoch of the uncompressed network takes {duration(seconds['per_epoch'])} here, "
            f"building and measuring a candidate {duration(seconds['per_evaluation'])}."
        )
    for problem in profile.get("problems", ()):
        console.print(Text(problem), style="bold red")


def _ranges(profile: Mapping[str, Any]) -> Table:
    table = _table("What is achievable", "metric", "baseline", "lowest", "highest")
    for name, value in profile["baseline"].items():
        low, high = profile["ranges"].get(name, (None, None))
        _add(table, name, figure(name, value), figure(name, low), figure(name, high))
    return table


def _architecture(choices: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("Choices of the network as a whole", "choice", "values", "neutral")
    for name, choice in choices.items():
        if kind_of(name) not in LAYER_CHOICES:
            _add(table, name, _values(choice), choice["neutral"])
    return table


def _values(choice: Mapping[str, Any]) -> str:
    if "options" in choice:
        return ", ".join(map(str, choice["options"]))
    step = f" in steps of {choice['step']:g}" if choice.get("step") else ""
    return f"{choice['low']:g} to {choice['high']:g}{step}{' (logarithmic)' if choice.get('log') else ''}"


def _groups(profile: Mapping[str, Any]) -> Table:
    table = _table("Groups of layers that are pruned together", "group", "channels", "ratio", "layers")
    for group in profile["techniques"].get("prune", {}).get("groups", ()):
        choice = profile["choices"].get(group.get("ratio", f"prune.{group['name']}.ratio"))
        ratio = _values(choice) if choice else f"frozen: {group['reason'] or 'left out of the space'}"
        _add(table, group["name"], group["channels"], ratio, ", ".join(group["layers"]))
    return table


def _quantizable(profile: Mapping[str, Any]) -> Table:
    table = _table("Layers and their bits", "layer", "kind", "weight bits", "activation bits", "")
    layers = profile["techniques"].get("quantize", {}).get("layers", ())
    stays: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        if layer["reason"]:
            stays.setdefault(layer["reason"], []).append(layer)
            continue
        choices = [
            profile["choices"].get(f"quantize.{layer['name']}.{kind}_bits")
            for kind in ("weight", "activation")
        ]
        fixed = layer.get("fixed")
        listed = [_values(choice) if choice else "" if fixed else "32" for choice in choices]
        _add(table, layer["name"], layer["kind"], *listed, f"fixed at {fixed} bits" if fixed else "")
    for reason, alike in stays.items():
        names, kinds = ", ".join(layer["name"] for layer in alike[:2]), {layer["kind"] for layer in alike}
        more = f" and {len(alike) - 2} more" if len(alike) > 2 else ""
        _add(table, names + more, ", ".join(sorted(kinds)), "32", "32", f"float: {reason}")
    return table


def print_status(console: Console, study: Study) -> None:
    """Where a search stands, in a few lines."""
    status = study.status()
    trials, best = status["trials"], status["best"]
    rows = {
        "state": f"{status['state']}{f' ({study.reason})' if study.reason else ''}",
        "trials": f"{trials['finished']} with a result ({trials['stopped']} of them stopped early), "
        f"{trials['failed']} failed, {trials['running']} running",
        **_live(status["live"]),
        "budget left": budget_left(status["budget"]),
        "rungs": rungs(status["rungs"]),
        "spent": spent(status["spent"]),
        "front": f"{status['front_size']} trials, hypervolume {status['hypervolume']:.4f}",
        "best": "none yet" if best is None else _best(study, best),
        "baseline": _figures(study, study.baseline),
        "constraints": ", ".join(limit(c, study.baseline) for c in study.spec.constraints) or "none",
        **_revalidation(status),
        **modelled(status),
        "why": "\n".join(explain(study)["sentences"]) or "nothing can be said yet",
    }
    console.print(_grid(rows))


def print_job(console: Console, job: Mapping[str, Any]) -> None:
    """Where a submitted search stands, as `submission.describe` found it."""
    status = job["status"]
    rows = {
        "job": job["job"],
        "state": job["state"] + (f" ({job['message']})" if job["message"] else ""),
        "run": f"{job['run']} (on the head), for {duration(job['seconds'])}",
        **({} if status is None else figures_of(status)),
        "printed": "\n".join(job["printed"]) or "nothing yet",
    }
    console.print(_grid(rows))


def _grid(rows: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _best(study: Study, best: Mapping[str, Any]) -> str:
    seeds = f" (means over {best['seeds']} seeds)" if "seeds" in best else ""
    return f"trial {best['trial']}: {_figures(study, best['metrics'], best.get('deviations', {}))}{seeds}"


def _live(live: Mapping[str, Any] | None) -> dict[str, str]:
    """Rows on the workers, where somebody searches."""
    if live is None:
        return {}
    left = live["seconds_left"]
    shapes = [
        f"{name}: {', '.join(f'{count} {state}' for state, count in states.items() if count)}"
        for name, states in live["workers"].items()
    ]
    return {
        "workers": f"{'; '.join(shapes) or 'none yet'}; {live['utilisation']:.0%} of their time at work, "
        f"{live['queue']} requests wait",
        "ends in": "nobody can say yet" if left is None else f"about {duration(left)}, at the pace so far",
    }


def _revalidation(status: Mapping[str, Any]) -> dict[str, str]:
    """A row on the re-validation, where there was one."""
    found = status.get("revalidation")
    if found is None:
        return {}
    left = f", {found['left']} evaluations are left" if found["left"] else ""
    return {"re-validated": f"{found['trials']} trials{left}"}


def _figures(
    study: Study, metrics: Mapping[str, float], deviations: Mapping[str, float] | None = None
) -> str:
    names = dict.fromkeys(
        [*(o.metric for o in study.spec.objectives), *(c.metric for c in study.spec.constraints)]
    )
    spread = deviations or {}
    return ", ".join(f"{name} {with_deviation(name, metrics.get(name), spread.get(name))}" for name in names)


def print_revalidated(console: Console, study: Study) -> None:
    """What the re-validated trials came to, beside what the search had found of them, best first."""
    table = _table("Re-validated", "trial", "seeds", "metric", "in the search", "mean ± deviation", "")
    front = {trial.number for trial in study.front}
    done = [trial for trial in study.trials if trial.is_revalidated]
    for trial in sorted(done, key=lambda trial: (trial.number not in front, trial.number)):
        before = trial.searched.metrics if trial.searched is not None else {}
        place = "on the front" if trial.number in front else "fell off the front"
        for name in [o.metric for o in study.spec.objectives]:
            after = with_deviation(name, trial.metrics.get(name), trial.deviations.get(name))
            _add(
                table,
                trial.number,
                len(trial.validations),
                name,
                figure(name, before.get(name)),
                after,
                place,
            )
    console.print(table)


def print_front(console: Console, study: Study) -> None:
    """The front as a table, best by the first objective first."""
    front = study.front
    if not front:
        console.print("The front is empty: no trial with a result meets every constraint.")
        return
    names = metric_names(front)
    table = _table("", "trial", "rung", *names, "choices")
    for trial in front:
        values = [with_deviation(n, trial.metrics.get(n), trial.deviations.get(n)) for n in names]
        _add(table, trial.number, trial.rung, *values, " · ".join(summary(trial.read or trial.choices)))
    console.print(table)
    for line in provenance(front, names):
        console.print(Text(line, style="dim"))


def metric_names(trials: Iterable[Trial]) -> list[str]:
    """Every metric that any of the trials has, in order of appearance."""
    return list(dict.fromkeys(name for trial in trials for name in trial.metrics))


def front_rows(study: Study) -> list[dict[str, Any]]:
    """The front as plain data: `trial`, `rung`, `metrics`, `sources`, `choices`; best by the first objective first.

    `sources` says which figures were measured and which are modelled; `unstable` is there where a time was not steady.
    A trial that was re-validated has `seeds` and `deviations`, too; its metrics are means.
    """
    return [
        {
            **trial.summary(),
            "rung": trial.rung,
            "choices": dict(trial.choices),
            "sources": trial.sources,
            **({"unstable": True} if trial.is_unstable else {}),
        }
        for trial in study.front
    ]


def front_csv(study: Study) -> str:
    """The front as CSV: `trial`, `rung`, then a column for each metric and each choice.

    Where it was re-validated, `seeds` and a column `<metric>_deviation` for each metric stand before the choices.
    """
    front = study.front
    metrics = metric_names(front)
    choices = list(dict.fromkeys(name for trial in front for name in trial.choices))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    is_revalidated = any(trial.is_revalidated for trial in front)
    more = ["seeds", *(f"{name}_deviation" for name in metrics)] if is_revalidated else []
    writer.writerow(["trial", "rung", *metrics, *more, *choices])
    for trial in front:
        values: list[Any] = [trial.metrics.get(name, "") for name in metrics]
        if is_revalidated:
            values += [len(trial.validations) or 1, *(trial.deviations.get(name, "") for name in metrics)]
        writer.writerow(
            [trial.number, trial.rung, *values, *(trial.choices.get(name, "") for name in choices)]
        )
    return text.getvalue()


def print_checks(console: Console, checks: Sequence[Checked]) -> None:
    """One line for each contract test."""
    for check in checks:
        console.print(
            Text("ok      " if check.ok else "BROKEN  ", style="green" if check.ok else "bold red"), end=""
        )
        console.print(Text(check.name))
        if check.message:
            console.print(Text(f"        {check.message}"))


def print_inspection(console: Console, found: Mapping[str, Any]) -> None:
    """What can be searched about a network, and what not, and why."""
    console.print(f"[bold]{found['model']}[/bold]: {found['params']:,} parameters")
    for sentence in (*found["problems"], *found["warnings"]):
        console.print(Text(sentence, style="red" if sentence in found["problems"] else "yellow"))
    if found["problems"]:
        return
    for tried in found["ways"]:
        line = f"{tried['way']}: {tried['groups']} groups, half of them are {tried['share']:.0%} of the parameters"
        console.print(Text(line + (f"; {tried['reason']}" if tried["reason"] else ""), style="dim"))
    console.print()
    console.print(_groups_table(found["groups"]))
    console.print(_stays_table("stays whole", found["frozen"]))
    bits = f"bits: {len(found['quantizable'])} layers can be quantized"
    console.print(Text(bits))
    if found["not_quantizable"]:
        console.print(_stays_table("stays float", found["not_quantizable"]))
    for operation, line in found["unknown"].items():
        console.print(Text(f"{operation} is not followed ({line or 'in torch'})", style="yellow"))
    if "pruned_params" in found:
        _print_trial(console, found)


def _groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="dim")
    for column in ("can be pruned", "units", "kind", "with", ""):
        table.add_column(column, justify="right" if column == "units" else "left")
    for group in groups:
        others = ", ".join(layer for layer in group["layers"] if layer != group["name"])
        proven = "" if group["proven"] else f"unproven: {group['reason']} {group['line']}"
        table.add_row(Text(group["name"]), str(group["units"]), group["kind"], Text(others), Text(proven))
    return table


def _stays_table(title: str, layers: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="dim")
    for column in (title, "because", "line"):
        table.add_column(column)
    for layer in layers:
        table.add_row(Text(layer["layer"]), Text(layer["reason"]), Text(layer.get("line", "")))
    return table


def _print_trial(console: Console, found: Mapping[str, Any]) -> None:
    left = found["pruned_params"] / found["params"]
    console.print(f"one trial: {found['pruned_params']:,} parameters left ({left:.0%})")
    for step in ("zeroed_check", "export", "int8", "parity", "load"):
        console.print(
            Text(
                f"{'ok      ' if found[step] else 'FAILED  '}{step}", style="green" if found[step] else "red"
            )
        )
    for step, reason in found["reasons"].items():
        console.print(Text(f"        {step}: {reason}"))


def print_listing(console: Console, listing: Mapping[str, Sequence[str]]) -> None:
    """What is built in, by kind."""
    table = Table.grid(padding=(0, 2))
    for kind, names in listing.items():
        table.add_row(Text(kind, style="dim"), Text(", ".join(names)))
    console.print(table)
