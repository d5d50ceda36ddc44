"""Searches by a worker in this process: no cluster takes part in what such tests are about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from search.inline_workers import InlineWorkers

import autoprune
from autoprune.evaluate import Evaluator
from autoprune.spec import Spec
from autoprune.study import Study


class _Here(InlineWorkers):
    """One evaluator, in this process."""

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator.evaluate)
        self._evaluator = evaluator

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._evaluator, method)(*arguments)

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        return [self.call(method, *arguments) for arguments in calls]

    broadcast = call


@contextmanager
def _workers(spec: Spec, *_: Any) -> Iterator[_Here]:
    evaluator = Evaluator(spec)
    evaluator.attach_data(None)
    yield _Here(evaluator)


@contextmanager
def workers_here() -> Iterator[None]:
    """Whatever autoprune does meanwhile is done by a worker in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoprune.api.started_workers", _workers)
        yield


def searched_here(spec: Mapping[str, Any] | Path, folder: Path) -> Study:
    """The study of a search by a worker in this process."""
    with workers_here():
        return autoprune.search(spec, run=folder)
