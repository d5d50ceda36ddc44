"""The study's storage in PostgreSQL, in place of the journal in the run folder; Optuna's tables, by Optuna.

    storage: postgresql://me@db.example:5432/studies     in a spec; the password comes from ~/.pgpass or PGPASSWORD

`optuna-dashboard` and `optuna.load_study` open the same URL. Each operation is a transaction there, and takes some ten
milliseconds; they are collected and carried out at `commit`, in order. What fails half-way because the server is gone
goes on from there the next time, so that a server which is away for a minute costs that minute. One that was carried
out and not confirmed is carried out again; at worst that leaves a trial behind that stays without an answer.

The run folder keeps everything else, and says in `storage.json` where its study is. The driver holds an advisory lock
of the server for as long as it is connected, which the server lets go of a minute after the driver's machine is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, MissingExtra, RunFolderError
from autoprune.spec.storage import problem_of_url
from autoprune.study.journal import quiet

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, TrialState

PLACE = "storage.json"
CONNECT_SECONDS = 10
# A server that sends no answer is gone after about half a minute; so is a driver, for the server.
ALIVE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
SERVER_ALIVE = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"


class Database:
    """One study in a database. It stands in for `Journal`, and for the storage of Optuna's that a journal becomes.

    Args:
        folder: the run folder; its `storage.json` names the URL and the study.
        write: to write, as the only one.

    Raises:
        RunFolderError: the server cannot be reached, has no such study, or another driver writes it.
        MissingExtra: its client is not installed.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        url, self._name = _read(folder / PLACE)
        self._place = f"{url} (study {self._name})"
        self._storage = _connected(url)
        self._lock = _ServerLock(self._storage, self._name, self._place) if write else None
        self._waiting: list[Callable[[], None]] = []
        self._trials: list[int] = []  # of those that were created here, by the number that stands for them
        with _explained(self._place):
            self._id = self._storage.get_study_id_from_name(self._name)

    @staticmethod
    def begin(folder: Path, url: str, name: str, directions: Sequence[StudyDirection]) -> None:
        """Make an empty study under a name that no other has, and note in the run folder where it is."""
        storage, unique = _connected(url), f"{name}-{uuid.uuid4().hex[:8]}"
        with _explained(url), quiet():
            storage.create_new_study(list(directions), unique)
        (folder / PLACE).write_text(json.dumps({"url": url, "study": unique}), encoding="utf-8")
        storage.engine.dispose()

    @staticmethod
    def check(url: str) -> None:
        """See whether a database can be used, before any work is done for it.

        Raises:
            BadInput: it cannot, and why.
            MissingExtra: its client is not installed.
        """
        _connected(url).engine.dispose()

    # -- what `Journal` does ---------------------------------------------------------------------------------

    def storage(self) -> Database:
        """Itself."""
        return self

    def commit(self) -> None:
        """Carry out what was collected. It can be tried again when it fails.

        Raises:
            RunFolderError: the server is gone, or another driver has taken the study over.
        """
        if self._lock is None:
            return
        with _explained(self._place):
            if self._waiting:
                self._lock.hold()
            while self._waiting:
                self._waiting[0]()
                self._waiting.pop(0)

    def close(self) -> None:
        """Commit, and let others write."""
        try:
            self.commit()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None
            self._storage.remove_session()
            self._storage.engine.dispose()

    # -- what Optuna's storage does --------------------------------------------------------------------------

    def get_all_studies(self) -> list[Any]:
        """The one study that this is about; there may be many in the database."""
        with _explained(self._place):
            return [one for one in self._storage.get_all_studies() if one._study_id == self._id]

    def get_all_trials(self, study: int, deepcopy: bool = True) -> list[FrozenTrial]:
        """All trials as they are there."""
        with _explained(self._place):
            return self._storage.get_all_trials(study, deepcopy=deepcopy)

    def create_new_trial(self, study: int, template: FrozenTrial) -> int:
        """A new trial, under a negative number until the database gives it its own."""
        place = len(self._trials)
        self._trials.append(0)

        def create() -> None:
            self._trials[place] = self._storage.create_new_trial(study, template)

        self._later(create)
        return -1 - place

    def set_trial_user_attr(self, trial: int, key: str, value: Any) -> None:
        """An attribute of a trial."""
        self._later(lambda: self._storage.set_trial_user_attr(self._known(trial), key, value))

    def set_trial_system_attr(self, trial: int, key: str, value: Any) -> None:
        """An attribute of a trial that Optuna itself reads."""
        self._later(lambda: self._storage.set_trial_system_attr(self._known(trial), key, value))

    def set_trial_state_values(self, trial: int, state: TrialState, values: Sequence[float] | None) -> None:
        """The end of a trial; attributes come before."""
        from optuna.exceptions import UpdateFinishedTrialError

        def end() -> None:
            try:
                self._storage.set_trial_state_values(self._known(trial), state, values)
            except UpdateFinishedTrialError:  # it was carried out before, and not confirmed
                return

        self._later(end)

    def let_go(self, trial: int) -> None:
        """Nothing: the database holds what there is."""

    def set_study_user_attr(self, study: int, key: str, value: Any) -> None:
        """An attribute of the study."""
        self._later(lambda: self._storage.set_study_user_attr(study, key, value))

    def set_study_system_attr(self, study: int, key: str, value: Any) -> None:
        """An attribute of the study that Optuna itself reads."""
        self._later(lambda: self._storage.set_study_system_attr(study, key, value))

    def _later(self, step: Callable[[], None]) -> None:
        if self._lock is None:
            raise RunFolderError(f"{self._place} was opened for reading only")
        self._waiting.append(step)

    def _known(self, trial: int) -> int:
        return trial if trial >= 0 else self._trials[-1 - trial]


class _ServerLock:
    """The right to write a study, held by a connection of its own for as long as that lives."""

    def __init__(self, storage: RDBStorage, name: str, place: str) -> None:
        self._engine, self._place = storage.engine, place
        self._number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        self._connection: Any = None
        with _explained(place):
            self.hold()

    def hold(self) -> None:
        """Take the lock, or see that it is still held."""
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError

        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
                return
            except DBAPIError:
                self.release()
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        for setting in SERVER_ALIVE.split("; "):
            connection.execute(text(setting))
        taken = connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": self._number}).scalar()
        if not taken:
            connection.close()
            raise RunFolderError(
                f"another search is at work in {self._place}; wait for it, or look on with `autoprune status`"
            )
        self._connection = connection

    def release(self) -> None:
        """Let others write."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # not back to the pool, where it would keep the lock
            connection.close()


class _explained:  # noqa: N801
    """What the database raises, as trouble with the run folder; the server's own words, never the password."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        if isinstance(error, KeyError):
            raise RunFolderError(f"{self._place} is not in this database any more") from None
        if isinstance(error, StorageInternalError | SQLAlchemyError):
            raise RunFolderError(f"{self._place} cannot be used: {_words(error)}") from None


def _words(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = " ".join(str(getattr(cause, "orig", cause)).split())
    return text[:300] or type(error).__name__


def _read(path: Path) -> tuple[str, str]:
    """URL and study of a run folder.

    Raises:
        RunFolderError: the file does not say so.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        url, name = found["url"], found["study"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(f"{path} does not say where the study is") from None
    if not isinstance(url, str) or not isinstance(name, str) or problem_of_url(url):
        raise RunFolderError(f"{path} does not say where the study is")
    return url, name


def _connected(url: str) -> RDBStorage:
    """Optuna's storage behind a URL, its tables made where there are none.

    Raises:
        RunFolderError: nobody answers, or not to us.
        MissingExtra: the client is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise MissingExtra(
            "a study in PostgreSQL needs its client: pip install 'autoprune[postgresql]'"
        ) from None
    from optuna.storages import RDBStorage

    arguments: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, **ALIVE}
    # A server that a run folder of others names must not be told a password that it could use elsewhere.
    if "PGREQUIREAUTH" not in os.environ and psycopg.pq.version() >= 160000:
        arguments["require_auth"] = "!password"
    try:
        with _explained(url), quiet():
            return RDBStorage(
                url.replace("postgresql://", "postgresql+psycopg://", 1),
                engine_kwargs={"connect_args": arguments, "pool_pre_ping": True, "pool_size": 2},
            )
    except RunFolderError as error:
        raise BadInput(f"storage: {error}") from None
