"""Searches: what is achievable, a search here, on a cluster or as its job, and files that make a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.commands.app import (
    INTERRUPTED,
    AddressOption,
    EventsOption,
    JobAddressOption,
    JobArgument,
    JsonOption,
    MinutesOption,
    RunArgument,
    SeedOption,
    SpecArgument,
    StorageOption,
    SubmitAddressOption,
    TrialsOption,
    WorkersOption,
    command,
    fail,
    print_json,
    say,
    watching,
)


@command("profile")
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
        print_json(made)
        return
    from autoprune.report.tables import make_console, print_profile

    print_profile(make_console(), made)


@command("search")
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

    with watching(as_json) as view:
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


@command("resume")
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

    with watching(as_json) as view:
        study = api.resume(run, folder=folder, on_event=view)
    if not as_json:
        _print_outcome(study)


@command("submit")
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
        spec, address, run=run, requirements=requirements, resume=resume, say=say, **options
    )
    print(job)
    if detach:
        return
    try:
        with watching(False) as view:
            end = submission.follow(job, address, on_event=view, say=say)
    except KeyboardInterrupt:
        fail(
            f"job {job} goes on; `autoprune status {job} --address {address}` shows where it stands, "
            f"`autoprune stop {job} --address {address}` ends it",
            INTERRUPTED,
        )
    print(f"{end.state}; its run folder on the head: {end.run}")


@command("cluster")
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


@command("stop")
def stop(job: JobArgument, address: JobAddressOption) -> None:
    """End a search that was submitted as a job, as Ctrl-C would.

    What it has found is kept in its run folder.
    """
    from autoprune import submission

    end = submission.stop(job, address)
    print(f"{end.state}; its run folder on the head: {end.run}")


def _print_outcome(study: Any) -> None:
    from autoprune.report.tables import make_console, print_status

    print_status(make_console(), study)
    print(f"\nautoprune report {study.place}\nautoprune export {study.place}")
