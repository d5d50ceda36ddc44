"""A search on a cluster that this machine only sends it to: ship it, look on, end it.

    job = submit("spec.yaml", "head:6379")
    end = follow(job, "head:6379", on_event=view)

The spec is checked here, in full, before anything is sent. What runs there is `autoprune search --json` of this very
version, and what that prints is turned back into events.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from autoprune.errors import BadInput, SearchFailed
from autoprune.references import search_spaces_folder
from autoprune.report.events import replay
from autoprune.spec import Spec, load_spec

if TYPE_CHECKING:
    from autoprune.cluster.jobs import Job

SPEC = "autoprune-job.yaml"
RUNS = "~/autoprune-runs"
MOST_PRINTED = 5
STOP_SECONDS = 75.0  # a little more than a search is given to end


def submit(
    spec: str | Path | Mapping[str, Any] | Spec,
    address: str,
    *,
    run: str | None = None,
    requirements: Path | None = None,
    resume: bool = False,
    say: Callable[[str], object] = lambda _: None,
    **overrides: Any,
) -> str:
    """Send a search to a cluster; returns the name of its job.

    Args:
        spec: as for `autoprune.search`.
        address: `auto`, HOST:PORT of the head, or http(s)://HOST:PORT of its job server.
        run: the run folder as the head will see it; by default a new one in its `~/autoprune-runs`.
        requirements: what pip is to install on every node, as pip reads it.
        resume: go on with the search in `run`, up to its original budget, with the files that are shipped now.
        say: told what is shipped, and that anybody may use the cluster.
        overrides: as for `autoprune.search`.

    Raises:
        BadInput: the spec, the files that it names, the requirements or the cluster cannot be used.
    """
    from autoprune.cluster.jobs import JobServer, stage
    from autoprune.study.remote import is_url
    from autoprune.study.run_folder import user_files

    resolved = load_spec(spec, **overrides)
    problems = _problems_of_resuming(run, overrides) if resume else []
    run = run or f"{RUNS}/{resolved.name}-{datetime.now():%Y%m%d-%H%M%S}"
    problems += [
        f"{path} lies outside of {resolved.folder}, which is what is shipped; put it there"
        for path in user_files(resolved)
        if not path.is_relative_to(resolved.folder)
    ]
    if not run.startswith(("/", "~/")) and not is_url(run):
        problems.append(f"run: got {run!r}, expected a folder on the head, /... or ~/..., or a URL")
    if requirements is not None and not requirements.is_file():
        problems.append(f"requirements: there is no file {str(requirements)!r}")
    if problems:
        raise BadInput("\n".join(problems))
    server = JobServer(address, say)
    folder = None if resolved.folder.is_relative_to(search_spaces_folder()) else resolved.folder
    with tempfile.TemporaryDirectory(prefix="autoprune-job-") as name:
        count, size = stage(folder, Path(name))
        shipped = {**resolved.to_json(), "folder": "."}
        shipped["cluster"]["address"] = "auto"
        (Path(name) / SPEC).write_text(yaml.safe_dump(shipped, sort_keys=False), encoding="utf-8")
        say(f"shipping autoprune, the spec and {count} files beside it ({size / 1e6:.1f} MB)")
        command = ["resume", run, "--folder", "."] if resume else ["search", SPEC, "--run", run]
        return server.submit([*command, "--json"], Path(name), run, requirements)


def _problems_of_resuming(run: str | None, overrides: Mapping[str, Any]) -> list[str]:
    """What is given beside `resume` that does not go with it."""
    given = [name for name, value in overrides.items() if value is not None]
    problems = ["run: got nothing, expected the run folder to go on with"] if run is None else []
    return problems + [
        f"{name}: got a value, expected none: a search goes on as it was begun" for name in given
    ]


def write_cluster_files(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    ray_up: Path | None = None,
    kuberay: Path | None = None,
    hosts: Sequence[str] = (),
    image: str = "",
) -> None:
    """Write files that make a cluster for a search.

    Args:
        spec: as for `autoprune.search`.
        ray_up: a cluster file for `ray up`, at AWS or on `hosts`.
        kuberay: a `RayJob` for KubeRay, with everything that it needs but the `image`.
        hosts: machines of one's own, the head first.
        image: what the pods run; it has autoprune.

    Raises:
        BadInput: the spec cannot be used, neither file was asked for, or one of them is there already.
    """
    from autoprune.cluster import manifests

    resolved = load_spec(spec)
    texts: dict[Path, str] = {}
    if ray_up is not None:
        texts[ray_up] = manifests.ray_up(resolved, hosts)
    if kuberay is not None:
        texts[kuberay] = manifests.rayjob(resolved, image)
    if not texts:
        raise BadInput("cluster: name a file, with --ray-up or --kuberay")
    for path, text in texts.items():
        manifests.write(path, text)


def follow(
    job: str,
    address: str,
    *,
    on_event: Callable[[str, dict[str, Any]], None],
    say: Callable[[str], object] = lambda _: None,
) -> Job:
    """Look on until a job has ended; returns it.

    Args:
        job: its name.
        address: of its cluster.
        on_event: told of its events, as by `autoprune.search`; `message` stands in for trials.
        say: told whatever else it prints.

    Raises:
        BadInput: the search could not begin, with its requirements or its input.
        SearchFailed: it failed.
    """
    from autoprune.cluster.jobs import JobServer, reason_of

    server = JobServer(address)
    for line in server.follow(job):
        if not replay(line, on_event) and line.strip():
            say(line)
    end = server.describe(job)
    if end.state != "failed":
        return end
    if end.exit_code is None:
        raise BadInput(f"job {job} could not begin: {reason_of(end)}")
    what = f"job {job} failed with exit code {end.exit_code}; what it found is in {end.run} on the head"
    raise BadInput(what) if end.exit_code == BadInput.exit_code else SearchFailed(what)


def describe(job: str, address: str) -> dict[str, Any]:
    """Where a job stands, as plain data: `job`, `state`, `message`, `run`, `seconds`, `status` (the latest of
    its search, None before there is one), `printed` (the last lines that are no events)."""
    from autoprune.cluster.jobs import JobServer, reason_of

    server = JobServer(address)
    found, status, printed = server.describe(job), None, []
    for line in server.log(job):
        try:
            event = json.loads(line)
            status, message = event.get("status", status), event["message"]
        except (ValueError, TypeError, KeyError, AttributeError):
            message = line
        printed.append(message)
    failed = found.state == "failed" and found.exit_code is None
    return {
        "job": found.name,
        "state": found.state,
        "message": reason_of(found) if failed else found.message,
        "run": found.run,
        "seconds": found.seconds,
        "status": status,
        "printed": printed[-MOST_PRINTED:],
    }


def stop(job: str, address: str) -> Job:
    """End a job as Ctrl-C would end its search, and wait for that; returns it.

    Raises:
        BadInput: there is no such job, or it has ended already.
    """
    from autoprune.cluster.jobs import JobServer

    server = JobServer(address)
    server.stop(job)
    end = time.monotonic() + STOP_SECONDS
    while not (found := server.describe(job)).is_over and time.monotonic() < end:
        time.sleep(0.5)
    return found
