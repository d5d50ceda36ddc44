"""A search as a job of a running Ray cluster: it goes on when the terminal that sent it is closed.

What is shipped is a folder: autoprune itself, the spec, and the files beside it. Ray unpacks it on every node, and
installs the requirements there, before the first process of the job starts. The search is then an ordinary one, with
its driver on the head and its workers wherever there is room. Needs Ray's job server, which is part of `ray[default]`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import autoprune.cluster.session as session
from autoprune.errors import BadInput, MissingExtra
from autoprune.references import search_spaces_folder

MOST_BYTES = 200_000_000  # of what is shipped
STOP_SECONDS = 60  # for so long a search may take to end cleanly before it is killed
GONE_SECONDS = 60.0  # for so long a job server may stay away while its log is followed
MOST_LISTED = 3
LEFT_OUT = ("runs", "__pycache__", "node_modules")
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
READY_SECONDS = 60.0  # after its head is up, a job server may take so long to be ready
ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # which would overrule what the user said


class Job(NamedTuple):
    """A job as it stands.

    Attributes:
        name: its id, by which it is asked for.
        state: `pending`, `running`, `stopped`, `succeeded` or `failed`.
        message: what Ray says of that.
        run: its run folder, as the head sees it.
        exit_code: of the search, None while it runs or where it never came to run.
        seconds: for how long it has run.
    """

    name: str
    state: str
    message: str
    run: str
    exit_code: int | None
    seconds: float

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self.state in ("stopped", "succeeded", "failed")


class JobServer:
    """The job server of a cluster.

    Args:
        address: `auto` or HOST:PORT of the head, or http(s)://HOST:PORT of the job server itself.
        warn: told when anybody may use the cluster.

    Raises:
        MissingExtra: Ray is installed without its job client.
        BadInput: nobody answers, or not to us.
    """

    def __init__(self, address: str, warn: Callable[[str], object] = lambda _: None) -> None:
        head = "" if "://" in address else session.checked(address, warn)[0]
        try:
            import aiohttp  # noqa: F401
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise MissingExtra("jobs need Ray's job client: pip install 'autoprune[cluster]'") from None
        self._address = address
        url = address if not head else _url_of(head, address)
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._explained(), _explicit():
            self._client = JobSubmissionClient(url)
            if not head and _lets_everybody_in(url):
                warn(f"the job server at {url} {session.UNPROTECTED}")

    def submit(self, command: Sequence[str], folder: Path, run: str, requirements: Path | None = None) -> str:
        """Start a job; returns its name.

        Args:
            command: arguments for `python -m autoprune.cli`; each is passed on as it is.
            folder: what is shipped, and the working directory of the job.
            run: the run folder, to be told of.
            requirements: a file as pip reads it.
        """
        environment: dict[str, Any] = {
            "working_dir": str(folder),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "RAY_USAGE_STATS_ENABLED": "0"},
        }
        if requirements is not None:
            environment["pip"] = str(requirements)
        end = time.monotonic() + READY_SECONDS
        with self._explained():
            while True:
                try:
                    return str(
                        self._client.submit_job(
                            entrypoint=f"exec python -m autoprune.cli {_quoted(command)}",
                            runtime_env=environment,
                            metadata={"autoprune": "search", "run": run},
                        )
                    )
                except RuntimeError as error:
                    if "No available agent" not in str(error) or time.monotonic() > end:
                        raise
                    time.sleep(1.0)

    def describe(self, name: str) -> Job:
        """A job as it stands.

        Raises:
            BadInput: there is no job of that name.
        """
        try:
            with self._explained():
                found = self._client.get_job_info(name)
        except BadInput as error:
            if "404" not in str(error) and "does not exist" not in str(error):
                raise
            there = ", ".join(self._names()[:MOST_LISTED]) or "none"
            raise BadInput(f"job: got {name!r}, expected a job of {self._address} ({there})") from None
        start, end = (found.start_time or 0) / 1000, (found.end_time or 1000 * time.time()) / 1000
        return Job(
            name,
            found.status.value.lower(),
            found.message or "",
            (found.metadata or {}).get("run", ""),
            found.driver_exit_code,
            max(0.0, end - start),
        )

    def _names(self) -> list[str]:
        """Searches of this cluster, latest first."""
        with self._explained():
            jobs = [job for job in self._client.list_jobs() if "autoprune" in (job.metadata or {})]
        return [job.submission_id for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]

    def stop(self, name: str) -> None:
        """Have a search end as Ctrl-C would; what it has found is kept.

        Raises:
            BadInput: there is no such job, or it has ended.
        """
        job = self.describe(name)
        if job.is_over:
            raise BadInput(f"job {name} has {job.state} already")
        with self._explained():
            self._client.stop_job(name)

    def log(self, name: str) -> list[str]:
        """What a job has printed so far, line by line."""
        with self._explained():
            return str(self._client.get_job_logs(name)).splitlines()

    def follow(self, name: str) -> Iterator[str]:
        """The lines that a job prints, until it has ended. A connection that breaks is made anew.

        Raises:
            BadInput: the job server has been away for too long.
        """
        rest, seen, heard = "", 0, time.monotonic()
        while True:
            passed = 0  # of this connection, which begins with all that was printed before
            try:
                for text in _awaited(self._client.tail_job_logs(name)):
                    heard, fresh = time.monotonic(), text[max(0, seen - passed) :]
                    passed += len(text)
                    seen = max(seen, passed)
                    *lines, rest = (rest + fresh).split("\n")
                    yield from lines
                if self.describe(name).is_over:
                    break
            except Exception as error:  # of aiohttp, of Ray, or of ours: whatever a network does
                if time.monotonic() - heard > GONE_SECONDS:
                    raise BadInput(
                        f"{self._address}: the job server has not answered for {GONE_SECONDS:g} s ({error}); "
                        f"the job may well go on"
                    ) from None
            time.sleep(0.5)
        if rest:
            yield rest

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the job client raises, in a sentence."""
        import requests
        from ray.exceptions import RayError

        try:
            yield
        except (requests.RequestException, RayError, RuntimeError, ValueError, OSError) as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
            if "401" in text or "uthentication" in type(error).__name__:
                text += "; it asks for a token, expected in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
            raise BadInput(
                f"{self._address}: {text} (the job server is part of `pip install 'ray[default]'` on the head)"
            ) from None


def stage(folder: Path | None, to: Path) -> tuple[int, int]:
    """Copy what a search needs into one folder, autoprune included; returns how many files of the user's, and bytes.

    Names that begin with a dot, run folders, and links are left out.

    Args:
        folder: whose files a spec names; None ships none.
        to: an empty folder.

    Raises:
        BadInput: there is far too much in it to be a search.
    """
    count = size = 0
    for path in files_below(folder) if folder is not None else ():
        count, size = count + 1, size + path.stat().st_size
        if size > MOST_BYTES:
            raise BadInput(
                f"{folder} holds more than {MOST_BYTES / 1e6:.0f} MB, and all of it would be shipped; put the spec and "
                f"its files into a folder of their own, and data where the nodes can read it"
            )
        target = to / path.relative_to(folder) if folder is not None else to
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    package, left_out = Path(session.__file__).resolve().parents[1], shutil.ignore_patterns("__pycache__")
    shutil.rmtree(to / package.name, ignore_errors=True)
    shutil.copytree(package, to / package.name, ignore=left_out)
    if search_spaces_folder().parent != package:
        shutil.copytree(search_spaces_folder(), to / package.name / "search_spaces", ignore=left_out)
    return count, size


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder that are shipped, in order."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in LEFT_OUT or path.is_symlink():
            continue
        if path.is_dir():
            yield from files_below(path)
        elif path.is_file():
            yield path


def reason_of(job: Job) -> str:
    """Why a job failed before its search began; what pip said where it was the requirements."""
    lines = job.message.strip().splitlines()
    wrong = dict.fromkeys(
        line.split("ERROR:", 1)[1].strip().removesuffix("\\n") for line in lines if "ERROR:" in line
    )
    if wrong:
        return f"the requirements cannot be installed there: {'; '.join(list(wrong)[:MOST_LISTED])}"
    return lines[0][:500] if lines else "no reason was given"


def _quoted(command: Sequence[str]) -> str:
    import shlex

    # $HOME is the head's; everything else is passed on letter by letter.
    return " ".join(
        f'"$HOME"/{shlex.quote(part[2:])}' if part.startswith("~/") else shlex.quote(part) for part in command
    )


def _awaited(lines: Any) -> Iterator[str]:
    """An asynchronous iterator as an ordinary one."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(lines.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(lines.aclose())
        loop.close()


def _url_of(head: str, address: str) -> str:
    """Where the job server of a head listens."""
    import ray
    from ray._private import ray_constants

    try:
        found = ray._raylet.GcsClient(address=head).internal_kv_get(
            ray_constants.DASHBOARD_ADDRESS.encode(),
            namespace=ray_constants.KV_NAMESPACE_DASHBOARD,
            timeout=5,
        )
    except Exception as error:
        raise BadInput(f"cluster.address: got {address!r}, it cannot be asked: {error}") from None
    if not found or not session.answers(found.decode()):
        where = f" at {found.decode()}, where it says it listens" if found else ""
        raise BadInput(
            f"cluster.address: got {address!r}, whose job server does not answer{where}; it needs "
            f"`pip install 'ray[default]'` on the head, and a --dashboard-host that is reached from here, or "
            f"--address http://HOST:PORT of a tunnel to it"
        )
    return f"http://{found.decode()}"


def _lets_everybody_in(url: str) -> bool:
    """Whether a job server answers without a token."""
    import requests

    return bool(requests.get(f"{url.rstrip('/')}/api/jobs/", timeout=session.PROBE_SECONDS).ok)


@contextmanager
def _explicit() -> Iterator[None]:
    """Have Ray's client take the address that it is given."""
    hidden = {name: os.environ.pop(name) for name in ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
