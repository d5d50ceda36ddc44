"""The command line: each command parses its options, makes one call of the API, and prints what it returned.

Exit codes: 0 done, 1 the search failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import signal

# Importing them is what makes them commands, in this order.
from autoprune.commands import searching, results, built_in  # isort: skip  # noqa: F401
from autoprune.commands.app import INTERRUPTED, app


def main() -> None:
    """The entry point of `autoprune`. A notice that the machine will be taken away (SIGTERM) ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # a second Ctrl-C would only break off Ray's clean-up, with a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


if __name__ == "__main__":
    main()
