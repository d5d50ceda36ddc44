"""The study's file: an Optuna journal that is written in groups, one `write` and one `fsync` for each.

Optuna's own `JournalFileBackend` takes a lock, opens, writes and syncs for every single operation, 3 to 6
ms for a trial. There is one driver per run folder, which holds a lock for as long as it runs, so here
operations are collected and `commit` makes all of them durable at once. The lines are the same:
`optuna-dashboard` and `JournalStorage(JournalFileBackend(path))` open the file, also while a search is
writing it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import optuna.storages.journal._storage
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from autoprune.errors import RunFolderError
from autoprune.space import Value
from autoprune.study.reading import intern_names


class _Template(FrozenTrial):
    """A trial that a storage copies once and nobody keeps: it need not be copied deeply, which takes a millisecond."""

    def __deepcopy__(self, _: dict[int, Any]) -> FrozenTrial:
        copied = FrozenTrial.__new__(FrozenTrial)
        copied.__dict__.update(self.__dict__)
        return copied


class _Storage(JournalStorage):
    """Optuna's storage of a journal, but that trials share distributions: it makes one for each choice of each."""

    def let_go(self, trial: int) -> None:
        """Hold no more than the figures of a trial that is over: whoever reads this storage has taken in the rest."""
        held = self.get_trial(trial)
        held.params, held.distributions, held.user_attrs = {}, {}, {}

    def _sync_with_backend(self) -> None:
        replay: Any = optuna.storages.journal._storage
        before = replay.json_to_distribution
        replay.json_to_distribution = _distribution
        try:
            super()._sync_with_backend()
        finally:
            replay.json_to_distribution = before


_distribution = functools.lru_cache(maxsize=100_000)(json_to_distribution)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from announcing on the terminal that it made a study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def running_trial(
    point: Mapping[str, Value],
    distributions: Mapping[str, BaseDistribution],
    attributes: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A trial under way, as a template for a storage: `optuna.trial.create_trial` without its checks.

    Every proposal of a search passes here, and its values come from these very distributions.
    """
    return _Template(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(point),
        distributions=dict(distributions),
        user_attrs=dict(attributes or {}),
        system_attrs={},
        intermediate_values={},
    )


def _extent(path: Path) -> tuple[int, int]:
    """The size of a file, and where its last whole line ends."""
    size = path.stat().st_size
    if not size:
        return 0, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return size, content.rfind(b"\n") + 1


class Journal(BaseJournalBackend):
    """The lines of a journal file, in memory until they are committed.

    A last line without its end is what a driver leaves that was killed in the middle of writing: it is left out,
    and cut off when the file is opened for writing and all else in it is sound.

    Args:
        path: the file; made if it does not exist and `write` is set.
        write: open for appending. The caller must hold the run folder's lock.

    Raises:
        RunFolderError: the file cannot be opened, or a line of it is damaged.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._unread: list[dict[str, Any]] = []
        self._count = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC) if write else None
            size, self._end = _extent(path)
            if self._file is not None and size and not self._end:
                raise RunFolderError(f"{path}: line 1 is damaged; this is not the journal of a study")
            self._old_end = self._end
        except OSError as error:
            raise RunFolderError(f"{path} cannot be opened: {error.strerror or error}") from None

    def storage(self) -> _Storage:
        """The journal as a storage that Optuna understands.

        Raises:
            RunFolderError: a line is damaged; the message says which.
        """
        try:
            storage = _Storage(self)
        except Exception as error:  # what is not JSON, or no journal entry, breaks the replay in many ways
            raise RunFolderError(
                f"{self._path}: line {self._count} is damaged ({type(error).__name__}: {error}); "
                f"cut the file off before it to keep what is older"
            ) from None
        if self._file is not None:  # not before all the rest is known to be sound
            os.ftruncate(self._file, self._end)
        return storage

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Entries from a number on; after the first time those that were appended since."""
        if log_number_from < self._count:
            raise RuntimeError("a journal is read once, from its beginning")
        for line in self._old_lines():
            self._count += 1
            log = json.loads(line)
            intern_names(log)
            yield log
        fresh, self._unread = self._unread, []
        self._count += len(fresh)
        yield from fresh

    def _old_lines(self) -> Iterator[bytes]:
        """What was there when the file was opened, once, line by line: that of a long search would fill the memory."""
        if end := self._old_end:
            self._old_end = 0
            with self._path.open("rb") as file:
                while file.tell() < end and (line := file.readline()):
                    yield line

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Take entries in; they are durable after the next `commit`."""
        if self._file is None:
            raise RunFolderError(f"{self._path} was opened for reading only")
        self._waiting += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        self._unread += logs

    def commit(self) -> None:
        """Make everything that was appended durable. One that failed can be tried again: it writes all of it anew.

        Raises:
            RunFolderError: the disk is full or gone.
        """
        if not self._waiting or self._file is None:
            return
        data = b"".join(self._waiting)
        try:
            if (
                os.fstat(self._file).st_size != self._end
            ):  # one before broke off, and could not even be undone
                os.ftruncate(self._file, self._end)
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise RunFolderError(f"{self._path} cannot be written: {error.strerror or error}") from None
        self._end += len(data)
        self._waiting = []

    def close(self) -> None:
        """Commit and let go of the file; the journal can no longer be appended to."""
        if self._file is not None:
            try:
                self.commit()
            finally:
                os.close(self._file)
                self._file = None
