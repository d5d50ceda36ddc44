"""Every error that autoprune raises on purpose.

    AutopruneError
    ├── BadInput                something the user gave is wrong          (exit code 2)
    │   ├── SpecError           the spec: every problem of it, together
    │   ├── UnresolvedReference "file.py:Name" that leads nowhere
    │   ├── TaskError           the task raises, returns NaN, has no or bad data
    │   ├── ModelError          a model that cannot be traced, pruned or exported
    │   │   └── NoNetwork       choices for which there is no network: such a trial is rejected
    │   ├── TargetError         a choice or model that the target cannot run
    │   ├── RunFolderError      a run folder that exists, is locked, unwritable or damaged
    │   ├── ArtifactError       an artifact that is incomplete or was changed
    │   └── MissingExtra        a package that is not installed
    └── SearchFailed            the search could not do its job           (exit code 1)
        └── ParityError         the exported model is not the one that was measured

A message says which thing, what was found, what is accepted, and what to do. Anything else that reaches the
user is a bug of ours.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path


class AutopruneError(Exception):
    """The root: `except AutopruneError` catches everything that autoprune says on purpose."""

    exit_code = 1


class BadInput(AutopruneError):
    """Something that the user gave cannot be used as it is."""

    exit_code = 2


class SpecError(BadInput):
    """A spec with problems; `problems` holds one line each, and all of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[str, ...]]]:
        return SpecError, (self.problems,)


class UnresolvedReference(BadInput):
    """A reference such as `file.py:Name` that leads to no object."""


class TaskError(BadInput):
    """A task whose model, data, loss or metric does not do what the contract asks."""


class ModelError(BadInput):
    """A model that cannot be traced, pruned or exported; the message names the layer where it can."""


class NoNetwork(ModelError):
    """Choices of an architecture that exclude each other, or that give a network which does not run."""


class TargetError(BadInput):
    """A choice or a model that the target cannot run."""


class RunFolderError(BadInput):
    """A run folder that exists, is in use, cannot be written, or is damaged."""


class ArtifactError(BadInput):
    """An artifact that is incomplete, was changed, or is of another format."""


class MissingExtra(BadInput):
    """A package that is not installed; the message is one sentence with the pip command."""


class SearchFailed(AutopruneError):
    """The search ended without what it was asked for."""


class ParityError(SearchFailed):
    """The exported model does not behave as the candidate that the search measured."""


def raised(error: BaseException) -> str:
    """`raises KeyError: 'x' (task.py, line 12)`: what was raised, and where in the user's own code.

    The user sees no traceback, so this names the last line of it that is neither ours nor of a package.
    """
    own = str(Path(__file__).resolve().parent)
    lines = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_file()
        and not frame.filename.startswith((own, str(Path(traceback.__file__).parent)))
        and "-packages" not in frame.filename
    ]
    where = f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
    return f"raises {type(error).__name__}: {error}{where}"
