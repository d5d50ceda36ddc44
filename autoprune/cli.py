"""The command line: each command parses its options, makes one call of the API, and prints what it returned.

Exit codes: 0 done, 1 the search failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from autoprune.errors import AutopruneError

Command = TypeVar("Command", bound=Callable[..., Any])

BROKEN, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Search jointly over architecture, pruning, distillation and bits, against measured latency.",
    epilog="Exit codes: 0 done, 1 the search failed, 2 bad input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a ready spec.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run folder of a search, or its URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead; its fields are stable.")]
TrialsOption = Annotated[
    int | None, typer.Option(metavar="N", help="Budget in trials, in place of the spec's.")
]
MinutesOption = Annotated[
    float | None, typer.Option(metavar="M", help="Budget in minutes, in place of the spec's.")
]
WorkersOption = Annotated[int | None, typer.Option(metavar="W", help="How many candidates at a time.")]
AddressOption = Annotated[str | None, typer.Option(help="Ray cluster: local, auto or HOST:PORT.")]
StorageOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Keep the study in PostgreSQL: postgresql://USER@HOST:PORT/DATABASE."),
]
EventsOption = Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON instead.")]
SubmitAddressOption = Annotated[
    str, typer.Option("--address", help="HOST:PORT of its head, auto, or http://HOST:PORT of its job server.")
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The name that `submit` printed.")]
JobAddressOption = Annotated[
    str, typer.Option("--address", help="Of the Ray cluster that it was submitted to.")
]
SeedOption = Annotated[int | None, typer.Option(metavar="S", help="Every random draw comes from it.")]


def main() -> None:
    """The entry point of `autoprune`. A notice that the machine will be taken away (SIGTERM) ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # a second Ctrl-C would only break off Ray's clean-up, with a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


def _command(name: str) -> Callable[[Command], Command]:
    """A command whose errors become messages and exit codes; what is not ours stays a traceback."""

    def register(command: Command) -> Command:
        @functools.wraps(command)
        def run(*arguments: Any, **options: Any) -> None:
            try:
                command(*arguments, **options)
            except AutopruneError as error:
                _fail(str(error), error.exit_code)
            except KeyboardInterrupt as interrupt:
                # A search says in which run folder it was stopped, once there is one.
                goes_on = name if name in ("resume", "revalidate") else "resume"
                folder = interrupt.args[0] if interrupt.args else options["run"] if name == goes_on else None
                hint = f"; `autoprune {goes_on} {folder}` goes on from there" if folder is not None else ""
                _fail(f"interrupted{hint}", INTERRUPTED)

        app.command(name)(run)
        return command

    return register


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"autoprune: {line}", file=sys.stderr)
    raise typer.Exit(code)


@_command("profile")
def profile(
    spec: SpecArgument,
    workers: WorkersOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is achievable, before any search.

    Every choice, the range of every metric, what is frozen and why.

    JSON: {"choices", "techniques", "baseline", "layers", "ranges", "seconds", "problems"}.
    """
    from autoprune import api
    from autoprune.report.live import live_view

    with live_view(stderr=True) as view:
        made = api.profile(spec, on_event=view, workers=workers, address=address, seed=seed)
    if as_json:
        _print_json(made)
        return
    from autoprune.report.tables import make_console, print_profile

    print_profile(make_console(), made)


@_command("search")
def search(
    spec: SpecArgument,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The run folder, or a URL such as s3://...; by default the next free runs/NAME.",
        ),
    ] = None,
    trials: TrialsOption = None,
    minutes: MinutesOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    storage: StorageOption = None,
    as_json: EventsOption = False,
) -> None:
    """Search until the budget is spent.

    Ctrl-C stops it cleanly: what was evaluated is kept, and `autoprune resume` goes on.

    JSON: {"event", "message"} on each line, with {"busy", "trial": {"trial", "rung", "state", "metrics", "seconds",
    "reason"}} where there is one, and every few seconds the "status" as `status --json` prints it.
    """
    from autoprune import api

    with _view(as_json) as view:
        study = api.search(
            spec,
            run=run,
            on_event=view,
            trials=trials,
            minutes=minutes,
            workers=workers,
            address=address,
            seed=seed,
            storage=storage,
        )
    if not as_json:
        _print_outcome(study)


@_command("resume")
def resume(
    run: RunArgument,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the spec's files are now, if no longer where they were."),
    ] = None,
    as_json: EventsOption = False,
) -> None:
    """Go on with a search that was interrupted or killed.

    It ends at its original budget.

    JSON: the same as that of `search`.
    """
    from autoprune import api

    with _view(as_json) as view:
        study = api.resume(run, folder=folder, on_event=view)
    if not as_json:
        _print_outcome(study)


@_command("submit")
def submit(
    spec: SpecArgument,
    address: SubmitAddressOption,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="The run folder on the head; by default ~/autoprune-runs/NAME-TIME."
        ),
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What pip is to install on every node before the search begins."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's name and leave it alone.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in the run folder that --run names.")
    ] = False,
    trials: TrialsOption = None,
    minutes: MinutesOption = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    storage: StorageOption = None,
) -> None:
    """Search as a job of a running Ray cluster.

    autoprune, the spec and the files beside it are shipped, and the log is followed. The job goes on when the terminal
    is closed or Ctrl-C ends the following; `status JOB --address` and `stop JOB --address` reach it.
    """
    from autoprune import submission

    options = {"trials": trials, "minutes": minutes, "workers": workers, "seed": seed, "storage": storage}
    job = submission.submit(
        spec, address, run=run, requirements=requirements, resume=resume, say=_say, **options
    )
    print(job)
    if detach:
        return
    try:
        with _view(False) as view:
            end = submission.follow(job, address, on_event=view, say=_say)
    except KeyboardInterrupt:
        _fail(
            f"job {job} goes on; `autoprune status {job} --address {address}` shows where it stands, "
            f"`autoprune stop {job} --address {address}` ends it",
            INTERRUPTED,
        )
    print(f"{end.state}; its run folder on the head: {end.run}")


@_command("cluster")
def cluster(
    spec: SpecArgument,
    ray_up: Annotated[
        Path | None, typer.Option("--ray-up", metavar="FILE", help="Write a cluster file for `ray up`.")
    ] = None,
    hosts: Annotated[
        str, typer.Option(metavar="A,B,...", help="For machines of your own, the head first; else for AWS.")
    ] = "",
    kuberay: Annotated[
        Path | None, typer.Option("--kuberay", metavar="FILE", help="Write a RayJob for KubeRay.")
    ] = None,
    image: Annotated[
        str, typer.Option(help="Of its pods; it has autoprune. By default autoprune:VERSION.")
    ] = "",
) -> None:
    """Write files that make a cluster for a search.

    Numbers and shapes of workers come from the spec; hosts, instance types and images are there to be edited.
    """
    from autoprune import submission

    listed = [host.strip() for host in hosts.split(",") if host.strip()]
    submission.write_cluster_files(spec, ray_up=ray_up, kuberay=kuberay, hosts=listed, image=image)
    for path in (ray_up, kuberay):
        if path is not None:
            print(path)


@_command("stop")
def stop(job: JobArgument, address: JobAddressOption) -> None:
    """End a search that was submitted as a job, as Ctrl-C would.

    What it has found is kept in its run folder.
    """
    from autoprune import submission

    end = submission.stop(job, address)
    print(f"{end.state}; its run folder on the head: {end.run}")


@_command("status")
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

        _print_json({**study.status(), "explanations": explain(study)})
        return
    from autoprune.report.tables import make_console, print_status

    print_status(make_console(), study)


@_command("front")
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
        _print_json(tables.front_rows(study))
    elif as_csv:
        print(tables.front_csv(study), end="")
    else:
        tables.print_front(tables.make_console(), study)


@_command("export")
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


@_command("finish")
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


@_command("retrain")
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


@_command("revalidate")
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
        _print_json(tables.front_rows(study))
    else:
        tables.print_revalidated(tables.make_console(), study)


@_command("report")
def report(
    run: RunArgument,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Rebuild report.html in the run folder.

    It is one file that works offline.
    """
    from autoprune import api

    print(api.report(run, open_browser=open_browser))


@_command("list")
def list_built_in(as_json: JsonOption = False) -> None:
    """List what is built in.

    JSON: {KIND: [NAME, ...]}.
    """
    from autoprune import api
    from autoprune.report.tables import make_console, print_listing

    listing = api.listing()
    if as_json:
        _print_json(listing)
    else:
        print_listing(make_console(), listing)


@_command("check")
def check(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="FILE:NAME", help="A network, or a task, technique, target or sampler of your own."
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            help="What a network takes: 1x3x32x32, ids=1x16:int. Without: example_inputs() in its file."
        ),
    ] = None,
    deep: Annotated[bool, typer.Option(help="Prune, quantize, export and reload a network once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what can be searched about a network; run the contract tests on anything else.

    The exit code is 2 when a search could not live with it.
    """
    from autoprune import api
    from autoprune.report.tables import make_console, print_checks, print_inspection

    found = api.check(reference, inputs=input or [], deep=deep)
    if isinstance(found, list):
        if as_json:
            _print_json([one._asdict() for one in found])
        else:
            print_checks(make_console(), found)
        is_fine = all(one.ok for one in found)
    else:
        if as_json:
            _print_json(found)
        else:
            print_inspection(make_console(), found)
        is_fine = not found["problems"]
    if not is_fine:
        raise typer.Exit(BROKEN)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _view(as_json: bool) -> Any:
    """Who is told of a search's events."""
    if as_json:
        from autoprune.report.events import JsonView

        return JsonView(lambda line: print(line, flush=True))
    from autoprune.report.live import live_view

    return live_view()


def _print_job(job: str, address: str, as_json: bool) -> None:
    from autoprune import submission
    from autoprune.report.tables import make_console, print_job

    found = submission.describe(job, address)
    if as_json:
        _print_json(found)
    else:
        print_job(make_console(), found)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1))


def _print_outcome(study: Any) -> None:
    from autoprune.report.tables import make_console, print_status

    print_status(make_console(), study)
    print(f"\nautoprune report {study.place}\nautoprune export {study.place}")


if __name__ == "__main__":
    main()
