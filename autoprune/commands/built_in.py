"""What is built in, and whether something of one's own would work."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.commands.app import (
    BROKEN,
    JsonOption,
    command,
    print_json,
)


@command("list")
def list_built_in(as_json: JsonOption = False) -> None:
    """List what is built in.

    JSON: {KIND: [NAME, ...]}.
    """
    from autoprune import api
    from autoprune.report.tables import make_console, print_listing

    listing = api.listing()
    if as_json:
        print_json(listing)
    else:
        print_listing(make_console(), listing)


@command("check")
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
            print_json([one._asdict() for one in found])
        else:
            print_checks(make_console(), found)
        is_fine = all(one.ok for one in found)
    else:
        if as_json:
            print_json(found)
        else:
            print_inspection(make_console(), found)
        is_fine = not found["problems"]
    if not is_fine:
        raise typer.Exit(BROKEN)
