"""What all commands share: the application, options that several have, how errors become exit codes."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
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


def command(name: str) -> Callable[[Command], Command]:
    """A command whose errors become messages and exit codes; what is not ours stays a traceback."""

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            try:
                function(*arguments, **options)
            except AutopruneError as error:
                fail(str(error), error.exit_code)
            except KeyboardInterrupt as interrupt:
                # A search says in which run folder it was stopped, once there is one.
                goes_on = name if name in ("resume", "revalidate") else "resume"
                folder = interrupt.args[0] if interrupt.args else options["run"] if name == goes_on else None
                hint = f"; `autoprune {goes_on} {folder}` goes on from there" if folder is not None else ""
                fail(f"interrupted{hint}", INTERRUPTED)

        app.command(name)(run)
        return function

    return register


def fail(message: str, code: int) -> NoReturn:
    """End with a message on standard error and an exit code."""
    for line in message.splitlines():
        print(f"autoprune: {line}", file=sys.stderr)
    raise typer.Exit(code)


def say(line: str) -> None:
    """Tell what goes on, on standard error: standard output is for what was asked."""
    print(line, file=sys.stderr, flush=True)


def watching(as_json: bool) -> Any:
    """Who is told of a search's events."""
    if as_json:
        from autoprune.report.events import JsonView

        return JsonView(lambda line: print(line, flush=True))
    from autoprune.report.live import live_view

    return live_view()


def print_json(data: Any) -> None:
    """Print plain data."""
    print(json.dumps(data, indent=1))
