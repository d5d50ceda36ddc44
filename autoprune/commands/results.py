"""What came of a search: where it stands, its front, its report, its best as files, trained on or anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoprune.commands.app import (
    JsonOption,
    RunArgument,
    command,
    print_json,
)


@command("status")
def status(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder; with --address, the name of a job.")
    ],
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster that the job was submitted to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a search stands.

    Progress, best, front, hypervolume and what is left of the budget.

    JSON: {"state", "trials": {"finished", "stopped", "failed", "running"}, "rungs": {RUNG: {"finished", "rejected",
    "failed", "running"}}, "front_size", "hypervolume", "best": {"trial", "metrics"} or null, "budget": {NAME:
    {"spent", "limit"}}, "spent": {"by_rung", "by_shape": {NAME: {"evaluations", "device_seconds", "money"}}},
    "live": {"workers": {SHAPE: {"busy", "idle", "starting"}}, "queue", "utilisation", "seconds_left"} or null where
    nobody searches, "explanations": {"importance", "constraints", "slopes", "sentences"}}.
    Finished are all trials with a result; those that went no further than
    an early rung are the stopped ones among them. Once the front was re-validated, "revalidation": {"trials", "left"}
    is there, and "best" has {"seeds", "deviations"}. Of a job: {"job", "state", "message", "run", "seconds", "status",
    "printed"}, of which "status" is the latest without its explanations, or null.
    """
    from autoprune import api

    if address is not None:
        _print_job(run, address, as_json)
        return
    study = api.open_study(run)
    if as_json:
        from autoprune.report.explanations import explain

        print_json({**study.status(), "explanations": explain(study)})
        return
    from autoprune.report.tables import make_console, print_status

    print_status(make_console(), study)


@command("front")
def front(
    run: RunArgument,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV instead: a column per metric and choice.")
    ] = False,
) -> None:
    """Show the trials that no other one dominates.

    JSON: a list of {"trial", "rung", "metrics", "sources", "choices"}, best by the first objective first; "sources"
    says what was measured and what is modelled, "unstable" is there where a time was not steady; of trials that were
    re-validated with {"seeds", "deviations"}.
    """
    from autoprune import api
    from autoprune.report import tables

    study = api.open_study(run)
    if as_json:
        print_json(tables.front_rows(study))
    elif as_csv:
        print(tables.front_csv(study), end="")
    else:
        tables.print_front(tables.make_console(), study)


@command("export")
def export(
    run: RunArgument,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder to write, new or empty; by default RUN/export/TRIAL, where the report finds it.",
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="The trial; by default the best one.")
    ] = None,
    where: Annotated[
        str, typer.Option(help="More constraints on the best: 'latency_ms<=2, size_bytes<=40%'.")
    ] = "",
    minimize: Annotated[
        str | None, typer.Option(metavar="METRIC", help="The best has the least of it.")
    ] = None,
    maximize: Annotated[
        str | None, typer.Option(metavar="METRIC", help="The best has the most of it.")
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, openvino, torch_export, aotinductor, executorch, litert, savedmodel, qonnx, hls4ml, a list "
            "of them; or alone safetensors, pretrained "
            "(transformers) or nni (choices); "
            "by default what the target runs.",
        ),
    ] = "",
) -> None:
    """Write a candidate as files that run.

    They are proven to be what was measured, or they are not written.
    """
    from autoprune import api

    listed = tuple(name.strip() for name in formats.split(",") if name.strip())
    print("rebuilding, measuring and comparing on the whole test split", file=sys.stderr)
    folder = api.export(
        run, to, number=trial, where=where, minimize=minimize, maximize=maximize, formats=listed
    )
    print(folder)


@command("finish")
def finish(
    run: RunArgument,
    trial: Annotated[int, typer.Option(metavar="N", help="The trial to train on.")],
    epochs: Annotated[float | None, typer.Option(metavar="E", help="For so many epochs.")] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Or for so many minutes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="R", help="In place of the spec's.")] = None,
) -> None:
    """Train a chosen candidate on.

    It is measured again, and that becomes its latest result.
    """
    from autoprune import api
    from autoprune.report.readable import figure

    found = api.finish(run, trial, epochs=epochs, minutes=minutes, learning_rate=learning_rate)
    print(f"trial {found.number}: {', '.join(f'{n} {figure(n, v)}' for n, v in found.metrics.items())}")


@command("retrain")
def retrain(
    structure: Annotated[Path, typer.Argument(metavar="STRUCTURE", help="structure.json of an artifact.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The checkpoint to write, as safetensors.")],
    spec: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="The task, and how to train; else config.yaml beside it."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(metavar="E", help="In place of the spec's.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the initial weights and of training.")] = 0,
) -> None:
    """Train an architecture from scratch.

    Its JSON says what it is; no weight of the search is read.
    """
    from autoprune import api
    from autoprune.report.readable import figure

    metrics = api.retrain(structure, to, spec=spec, epochs=epochs, seed=seed)
    print(f"{to}: {', '.join(f'{n} {figure(n, v)}' for n, v in metrics.items())} (test split)")


@command("revalidate")
def revalidate(
    run: RunArgument,
    best: Annotated[int, typer.Option(metavar="K", help="So many trials of the front.")] = 5,
    seeds: Annotated[int, typer.Option(metavar="N", help="So many trainings of each.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Train the best of the front again, over several seeds.

    From then on they are ranked by their means. Interrupted, it goes on when it is called again.

    JSON: the same as that of `front`.
    """
    from autoprune import api
    from autoprune.report import tables
    from autoprune.report.live import live_view

    with live_view(stderr=as_json) as view:
        study = api.revalidate(run, best, seeds, on_event=view)
    if as_json:
        print_json(tables.front_rows(study))
    else:
        tables.print_revalidated(tables.make_console(), study)


@command("report")
def report(
    run: RunArgument,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Rebuild report.html in the run folder.

    It is one file that works offline.
    """
    from autoprune import api

    print(api.report(run, open_browser=open_browser))


def _print_job(job: str, address: str, as_json: bool) -> None:
    from autoprune import submission
    from autoprune.report.tables import make_console, print_job

    found = submission.describe(job, address)
    if as_json:
        print_json(found)
    else:
        print_job(make_console(), found)
