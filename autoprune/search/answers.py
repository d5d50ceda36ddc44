"""What workers answered before a search: asked once for each network and machine, and kept on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

AT_ONCE = 16  # questions between two writes of the cache, for each worker


class Asked(Protocol):
    """A pool of workers, as far as anybody asks them before a search."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of one method on one worker."""
        ...

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of one method for many arguments, spread over the workers."""
        ...


class Answers:
    """Questions to workers, and the answers that are known from before.

    Args:
        workers: they answer.
        space: of the search, as plain data.
    """

    def __init__(self, workers: Asked, space: Mapping[str, Any]) -> None:
        from autoprune.targets.cache import cache_folder

        self._space, self._workers = space, workers
        key = workers.call("foresee", "key", space)
        self._path: Path | None = cache_folder() / "previews" / f"{key}.json"
        self._answers = self._read()

    def of_space(self, question: str) -> Any:
        """The answer of one worker about the whole space."""
        if question not in self._answers:
            self._answers[question] = _plain(self._workers.call("foresee", question, self._space))
            self._write()
        return self._answers[question]

    def map(self, question: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """An answer for each tuple of arguments; those that are not known are asked for, and written as they come."""
        keys = [json.dumps([question, *arguments], sort_keys=True) for arguments in calls]
        wanted = [i for i, key in enumerate(keys) if key not in self._answers]
        step = AT_ONCE * self._workers.size
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            answers = self._workers.map("foresee", [(question, *calls[i]) for i in part])
            self._answers.update({keys[i]: _plain(answer) for i, answer in zip(part, answers, strict=True)})
            self._write()
        return [self._answers[key] for key in keys]

    def _read(self) -> dict[str, Any]:
        """What is known from before; nothing where the file is absent or damaged."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        """Replace the file in one step; a folder that cannot be written is no reason to fail."""
        from autoprune.targets.cache import write_cache

        if self._path is None:
            return
        try:
            write_cache(self._path, self._answers)
        except OSError:
            self._path = None


def _plain(answer: Any) -> Any:
    """As JSON reads it back, so that an answer is the same from a worker and from the cache."""
    return json.loads(json.dumps(answer))
