"""The study: the run folder of one search, and the only way in which anything in it is written or read.

    study.journal   an Optuna storage, one Optuna trial for each evaluation (trial n at rung r, or its re-validation
                    n): the truth; or `storage.json`, which says in which database that is
    checkpoints/    weights to continue from
    spec.yaml, profile.json, files/    for people: what was asked, what was known, the user's own files
    lock            held by the one driver that may write; the system lets go of it when the driver dies

What is logged becomes durable at the next `commit`, all of it at once. Trials, front and hypervolume are
kept up to date from the evaluations as they come in, and rebuilt from the journal when a study is opened.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import autoprune.study.storage as storage
from autoprune.constraint import Constraint, Objective, goals, parse_where, total_violation
from autoprune.errors import BadInput, RunFolderError, SpecError
from autoprune.record import Evaluation, Request
from autoprune.space import Space, Value
from autoprune.spec import Spec
from autoprune.study.checkpoints import Checkpoints
from autoprune.study.header import Header, header_of
from autoprune.study.ledger import Ledger
from autoprune.study.live import Live
from autoprune.study.patience import patiently
from autoprune.study.ranking import best_of, confirmed, front_of, worth_keeping
from autoprune.study.records import Records, key_of, plain
from autoprune.study.remote import Remote, is_leased, is_url
from autoprune.study.run_folder import Lock, prepare, refuse_links
from autoprune.study.storage import JOURNAL
from autoprune.study.trial import Trial

if TYPE_CHECKING:
    from autoprune.study.database import Database
    from autoprune.study.journal import Journal

PROFILE = "profile.json"
WORST_VIOLATION = 1e9  # stands for infinity, which JSON does not have


class Study:
    """A search's run folder. Make one with `Study.create`, look at one with `Study.open`.

    Attributes:
        folder: the run folder.
        spec: what was asked for.
        space: what may be decided.
        baseline: metrics of the uncompressed network.
        goals: what a search aims at: the constraints, then a limit on each objective that is to be large and has none,
            where the volume of the front ends. Errors have none: a tenth of a small one is nothing.
        warn: told of trouble that is waited out; whoever searches sets it.
        remote: where it is kept behind a URL, of which `folder` is a copy; None where the folder is all there is.
    """

    def __init__(self, folder: Path, journal: Journal | Database, lock: Lock | None) -> None:
        self.folder = folder
        self.remote: Remote | None = None
        self.warn: Callable[[str], None] = lambda _: None
        self._journal, self._lock = journal, lock
        kept = journal.storage()
        self._header = Header(kept, folder, write=lock is not None)
        self.spec, self.space, self.baseline = self._header.spec, self._header.space, self._header.baseline
        to_be_large = [o for o in self.spec.objectives if o.direction == "maximize"]
        self.goals = goals(to_be_large, self.spec.constraints, self.baseline)
        self._records = Records(kept, self._header)
        self._checkpoints = Checkpoints(folder / "checkpoints")
        self._ledger = Ledger(folder, self.spec, self.baseline)
        # What the weights cost that all trials share was spent before the first one.
        spent = self._spent_before()
        self._ledger.device_seconds = spent
        self._clock_base, self._clock_start = spent, math.nan
        self._is_searching = False  # in this session, by this process
        self._live = Live(folder)
        for place, stored in enumerate(self._records.found, start=1):
            try:
                request, evaluation, at = self._records.read(stored)
                self._ledger.note_request(request)
                if evaluation is not None:
                    self._clock_base = max(self._clock_base, at)
                    self._ledger.note_evaluation(evaluation, at)
            except (BadInput, ValueError) as error:
                raise RunFolderError(
                    f"{folder / JOURNAL}: evaluation {place} is damaged: {error}; cut the file off before it to keep "
                    f"what is older"
                ) from None
        self._ledger.plan(self._header.repeats)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        spec: Spec,
        space: Space,
        profile: Mapping[str, Any],
        baseline: Mapping[str, float],
    ) -> Study:
        """A new study in a folder that is empty or does not exist; open for writing.

        Args:
            folder: the run folder.
            spec: what was asked for.
            space: what may be decided.
            profile: what is known before the first trial (plain data); kept for the report.
            baseline: metrics of the uncompressed network, every objective among them.

        Raises:
            RunFolderError: the folder is not empty, or cannot be written.
            SpecError: the baseline lacks an objective.
        """
        missing = [o.metric for o in spec.objectives if o.metric not in baseline]
        if missing:
            raise SpecError([f"objectives.{name}: the baseline has no such metric" for name in missing])
        where = Path(folder)
        provenance = prepare(where, spec)
        lock = Lock(where)
        try:
            (where / PROFILE).write_text(json.dumps(plain(profile), indent=1), encoding="utf-8")
            storage.begin(where, spec, header_of(spec, space, plain(baseline), provenance))
            return cls._opened(where, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, folder: str | Path, *, write: bool = False) -> Study:
        """The study in a run folder.

        Args:
            folder: the run folder.
            write: to go on with it, as its only driver; what a killed driver left half-written is cut off.

        Raises:
            RunFolderError: there is no study, it is damaged, or, with `write`, another driver is at work on
                it.
        """
        remote = Remote(str(folder)) if is_url(folder) else None
        where = Path(folder) if remote is None else remote.fetch(write=write)
        if not storage.is_study(where):
            raise RunFolderError(f"there is no study in {where} (it has no {JOURNAL})")
        refuse_links(where)
        lock = Lock(where) if write else None
        try:
            study = cls._opened(where, lock)
            study.remote = remote
            return study
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def _opened(cls, folder: Path, lock: Lock | None) -> Study:
        journal = storage.opened(folder, write=lock is not None)
        try:
            with _without_collection():
                return cls(folder, journal, lock)
        except BaseException:
            journal.close()
            raise

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commit, and let others write; the study can still be looked at."""
        try:
            self._journal.close()
            if self._lock is not None and self.remote is not None:
                self.remote.push()
                self.remote.compact()
        finally:
            if self._lock is not None:
                if self.remote is not None:
                    self.remote.release()
                self._lock.release()
                self._lock = None

    # -- writing ---------------------------------------------------------------------------------------------

    def log_request(self, request: Request) -> None:
        """Note that an evaluation is about to be dispatched, so that a later driver can repeat it."""
        self._records.ask(request)
        self._ledger.note_request(request)

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Note the answer to a request that was logged. Save its checkpoint first.

        Raises:
            BadInput: no such request is open.
        """
        request = self._ledger.requests.get(key_of(evaluation))
        if request is None:
            raise BadInput(f"trial {evaluation.trial} at rung {evaluation.rung} was not requested")
        at = self.seconds
        self._records.answer(request, evaluation, at, self.violations(evaluation.metrics))
        self._ledger.note_evaluation(evaluation, at)

    def record(self, request: Request, evaluation: Evaluation) -> None:
        """Log a request and its answer together, checkpoint included, durably."""
        self.log_request(request)
        self.save_checkpoint(evaluation)
        self.log_evaluation(evaluation)
        self.commit()

    def commit(self) -> None:
        """Make everything that was logged durable: one write, one fsync. A disk that is full or gone is waited for.

        Raises:
            RunFolderError: it stays so.
        """
        self._patiently(self._journal.commit)
        if self.remote is not None:
            self._patiently(self.remote.push)

    def _patiently(self, write: Callable[[], None]) -> None:
        advice = f"what was recorded before is safe, and `autoprune resume {self.folder}` goes on from it"
        patiently(write, self.warn, advice)

    def set_state(self, state: str, reason: str = "") -> None:
        """Note where the search stands: `running`, `finished` or `interrupted`; durable at once."""
        self._header.note_state(state, reason)
        self._is_searching = state == "running"
        if not self._is_searching:
            self._live.clear()
        self.commit()

    def save_checkpoint(self, evaluation: Evaluation) -> None:
        """Write the weights that an evaluation came with, if any."""
        if evaluation.checkpoint is not None:
            weights = evaluation.checkpoint
            self._patiently(
                lambda: self._checkpoints.save(evaluation.trial, evaluation.rung, weights, evaluation.repeat)
            )

    def load_checkpoint(self, trial: int, rung: int | None = None) -> bytes | None:
        """The weights of a trial, None when there are none.

        Args:
            trial: its number.
            rung: of its evaluation at that rung or the nearest below; by default of the evaluation that stands for
                it.
        """
        found = self.trial(trial)
        if rung is None and found.is_revalidated and found.standing is not None:
            return self._checkpoints.load_repeat(trial, found.standing)
        return self._checkpoints.load(trial, found.rung if rung is None else rung)

    def drop_checkpoints(self, keep: Collection[int]) -> None:
        """Delete the checkpoints of trials that are neither in `keep`, nor on a front, nor under way."""
        if not self._checkpoints.trials:
            return
        asked_for = worth_keeping(self.results, self.spec.objectives, self.spec.constraints)
        asked_for |= {trial.number for trial in self.front}
        under_way = {trial for trial, *_ in self._ledger.requests} | {trial for trial, _ in self.repeats_left}
        under_way |= {r.donor.trial for r in self._ledger.requests.values() if r.donor is not None}
        trials = [self.trial(number) for number in self._checkpoints.trials]
        latest = {t.number: t.searched.rung for t in trials if t.searched is not None and t.has_result}
        repeats = {t.number: t.standing for t in trials if t.standing is not None}
        self._checkpoints.drop({*keep, *asked_for, *under_way}, latest, repeats)

    def plan_repeats(self, trials: Sequence[int], count: int) -> None:
        """Ask for re-validations 1 to `count` of each of these trials, in place of any asked for before; durably.

        What is answered already is not asked again, and what was answered stays.
        """
        self._set_revalidation(trials, count, is_complete=False)

    def end_repeats(self) -> None:
        """Note that a re-validation is complete; what it left out is no longer asked for. Durable at once."""
        self._set_revalidation((), 0, is_complete=True)

    def _set_revalidation(self, trials: Sequence[int], count: int, *, is_complete: bool) -> None:
        self._header.note_revalidation(trials, count, is_complete=is_complete)
        self._ledger.plan(self._header.repeats)
        self.commit()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Time that passes inside counts towards the budget of minutes."""
        self._clock_start = time.monotonic()
        try:
            yield
        finally:
            self._clock_base, self._clock_start = self.seconds, math.nan

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """The run folder as it is named: a path, or a URL."""
        return str(self.folder) if self.remote is None else self.remote.url

    @property
    def seconds(self) -> float:
        """For how long was searched up to now, over all sessions, and shared weights trained before."""
        return self._clock_base + (
            0.0 if math.isnan(self._clock_start) else time.monotonic() - self._clock_start
        )

    @property
    def device_seconds(self) -> float:
        """What all evaluations took together, and shared weights before them."""
        return self._ledger.device_seconds

    @property
    def profile(self) -> dict[str, Any]:
        """What was known before the first trial; empty when its file is gone."""
        try:
            found: dict[str, Any] = json.loads((self.folder / PROFILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _spent_before(self) -> float:
        """Seconds that shared weights took."""
        seconds = self.profile.get("seconds")
        spent = seconds.get("supernet", 0.0) if isinstance(seconds, dict) else 0.0
        return float(spent) if isinstance(spent, int | float) else 0.0

    @property
    def provenance(self) -> dict[str, Any]:
        """When, where and with which versions the study was made."""
        return self._header.provenance

    def trial(self, number: int) -> Trial:
        """One trial.

        Raises:
            BadInput: there is none of that number.
        """
        return self._ledger.trial(number)

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return self._ledger.trials

    @property
    def results(self) -> list[Trial]:
        """The trials with a result, of whichever rung."""
        return [trial for trial in self.trials if trial.has_result]

    @property
    def pending(self) -> list[Request]:
        """Requests of the search without an answer, with the weights they start from."""
        return [self._loaded(r) for r in self._ledger.requests.values() if not r.repeat]

    def _loaded(self, request: Request) -> Request:
        """A request with the weights that belong to it."""
        weights, donor = self.load_checkpoint(request.trial, request.rung - 1), request.donor
        if donor is not None:
            donor = donor._replace(weights=self._checkpoints.load(donor.trial, donor.rung))
        return replace(request, checkpoint=weights, donor=donor)

    @property
    def repeats_left(self) -> list[tuple[int, int]]:
        """(trial, repeat) of every re-validation that was asked for and is not answered, in the order of asking."""
        return [one for one in self._header.repeats if one in self._ledger.planned]

    @property
    def repeating(self) -> list[int]:
        """The trials of a re-validation that is not complete, empty while there is none."""
        return list(self._header.revalidation.get("trials", ()))

    @property
    def is_revalidated(self) -> bool:
        """Whether a re-validation is complete."""
        return bool(self._header.revalidation.get("is_complete"))

    def is_requested(self, request: Request) -> bool:
        """Whether this very evaluation is on record as being under way."""
        return key_of(request) in self._ledger.requests

    def next_rung(self, number: int) -> int:
        """The rung under which a further evaluation of a trial, beyond the spec's rungs, is recorded."""
        return max(len(self.spec.rung_epochs), max(self.trial(number).evaluations, default=-1) + 1)

    def find_duplicate(self, point: Mapping[str, Value]) -> Trial | None:
        """The trial that agrees with `point` on everything that it read; None when the point is new."""
        number = self._ledger.duplicates.find(point)
        return None if number is None else self.trials[number]

    def violations(self, metrics: Mapping[str, float]) -> list[float]:
        """How far metrics are beyond each constraint, as a share of its limit; 0 or less where it holds."""
        return self._beyond(self.spec.constraints, metrics)

    def shortfalls(self, metrics: Mapping[str, float]) -> list[float]:
        """How far metrics are from each of the goals, as violations are from constraints."""
        return self._beyond(self.goals, metrics)

    def _beyond(self, limits: Sequence[Constraint], metrics: Mapping[str, float]) -> list[float]:
        return [min(limit.violation(metrics, self.baseline), WORST_VIOLATION) for limit in limits]

    @property
    def front(self) -> list[Trial]:
        """The feasible trials that no other one dominates, by the first objective, best first."""
        return self._ledger.front

    def best(self, where: str = "", *, minimize: str | None = None, maximize: str | None = None) -> Trial:
        """The best trial that meets some constraints.

        Where re-validated trials are on the front of those that do, it is one of them: beside means over several seeds,
        what was trained once would win by luck.

        Args:
            where: constraints such as `latency_ms<=2, size_bytes<=40%`, in place of the study's own on the same
                metrics; its others hold as well.
            minimize, maximize: the metric that decides; without either, the best compromise (the knee).

        Raises:
            SearchFailed: no trial meets the constraints; names the one that comes closest.
            SpecError: `where` is no list of constraints, nothing measures the metric, or both were given.
        """
        if minimize and maximize:
            raise SpecError(
                [f"best: got minimize={minimize!r} and maximize={maximize!r}, expected one of them"]
            )
        ranked_by = Objective(minimize, "minimize") if minimize else None
        if maximize:
            ranked_by = Objective(maximize, "maximize")
        wanted = parse_where(where)
        named = {constraint.metric for constraint in wanted}
        constraints = [*wanted, *(c for c in self.spec.constraints if c.metric not in named)]
        objectives, results = self.spec.objectives, self.results
        found = best_of(results, objectives, constraints, self.baseline, ranked_by)
        fitting = [t for t in results if total_violation(constraints, t.metrics, self.baseline) <= 0]
        sure = confirmed(front_of(fitting, objectives))
        return best_of(sure, objectives, constraints, self.baseline, ranked_by) if sure else found

    def hypervolume(self) -> float:
        """Hypervolume of the front, in shares of the baseline (its reference point: `ranking.volume_of`)."""
        return self._ledger.volume([trial.metrics for trial in self.front])

    def hypervolume_history(self) -> list[tuple[int, float, float]]:
        """(trials with a result, seconds of search, hypervolume) after each finished evaluation."""
        return self._ledger.history()

    def status(self) -> dict[str, Any]:
        """Progress as plain data, the same that `autoprune status --json` prints; see `standing`."""
        from autoprune.study.standing import standing

        return standing(self)

    def show_live(self, seen: Mapping[str, Any]) -> None:
        """Leave what the driver knows of its workers for others to see; trouble with that is passed over."""
        may_write = self._lock is not None
        if may_write and self.remote is not None:
            with suppress(OSError, RunFolderError):
                self.remote.renew()
        self._live.show(seen, write=may_write)

    @property
    def live(self) -> dict[str, Any] | None:
        """What the driver last left of its workers, None where nobody searches."""
        return self._live.read() if self.state == "running" else None

    @property
    def revalidation(self) -> dict[str, int] | None:
        """How many trials have means, and how many evaluations are to come; None where no re-validation was begun."""
        if not self._header.revalidation:
            return None
        return {"trials": sum(t.is_revalidated for t in self.trials), "left": len(self.repeats_left)}

    def spent(self) -> dict[str, float]:
        """What is used up of each kind of budget."""
        return {
            "trials": len(self._ledger.finished),
            "minutes": self.seconds / 60,
            "device_seconds": self.device_seconds,
            "device_hours": self.device_seconds / 3600,
            "money": sum(money for _, _, money in self.spent_at.values()),
        }

    @property
    def spent_at(self) -> dict[int, tuple[int, float, float]]:
        """Rung -> evaluations, device-seconds and money."""
        price = self.spec.cluster.price_at
        return {
            rung: (count, seconds, seconds * price(rung) / 3600)
            for rung, (count, seconds) in sorted(self._ledger.spent.items())
        }

    @property
    def state(self) -> str:
        """`running`, `finished` or `interrupted`; the last too when a driver was killed."""
        if self._header.state != "running":
            return self._header.state
        is_alive = (
            self._is_searching
            if self._lock is not None
            else Lock.is_held(self.folder) or is_leased(self.folder)
        )
        return "running" if is_alive else "interrupted"

    @property
    def reason(self) -> str:
        """Why the search ended, empty while it has not."""
        return self._header.reason


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from looking for garbage in what is being read: there is none, and it takes a third longer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
