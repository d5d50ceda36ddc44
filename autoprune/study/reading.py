"""What the storage of a run folder says, held against what can be there: a folder of others is data, right or wrong.

A line that Optuna can read may still hold anything in place of a record. Whatever is no record of ours raises
`ValueError` with a sentence; the study says in which file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

from autoprune.record import Donor, Evaluation, Request, State
from autoprune.space import Value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

REVALIDATION = "revalidation"
STATES = ("running", "finished", "interrupted", "failed")
ROWS, MOST_DIGITS = "rows", 12  # of a record, by their number
NUMBERS = ("metrics", "seconds", "unquantized", "scores")
TABLES = ("read", "structure", "measurement")
KNOWN = {one.name for one in fields(Evaluation)} - {"choices", "checkpoint"}


def checked_attributes(found: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a study, of which `state` and `revalidation` are what they should be.

    Raises:
        ValueError: they are not.
    """
    state = _table("state", found.get("state", {"state": "interrupted"}))
    if state.get("state") not in STATES or not isinstance(state.get("reason", ""), str):
        raise ValueError(f"its state is {str(state)[:80]}")
    asked = _table(REVALIDATION, found.get(REVALIDATION, {}))
    trials, count = asked.get("trials", []), asked.get("count", 0)
    if not isinstance(trials, list) or not all(map(_is_count, trials)) or not _is_count(count):
        raise ValueError(f"its re-validation is {str(asked)[:80]}")
    return dict(found)


def checked_baseline(found: Any) -> dict[str, float]:
    """The metrics of the uncompressed network.

    Raises:
        ValueError: they are no numbers.
    """
    return _numbers("baseline", found)


def request_of(stored: FrozenTrial) -> Request:
    """The request that a stored trial is about, its weights left out.

    Raises:
        ValueError: it is about none.
    """
    given: Mapping[str, Any] = stored.user_attrs
    trial: Any
    rung: Any
    trial, rung, repeat = given.get("trial"), given.get("rung"), given.get("repeat", 0)
    epochs, donor = given.get("epochs"), given.get("donor")
    if not (_is_count(trial) and _is_count(rung) and _is_count(repeat)):
        raise ValueError(
            f"it is of trial {str(trial)[:20]!r} at rung {str(rung)[:20]!r}, repeat {str(repeat)[:20]!r}"
        )
    if epochs is not None and not _is_number(epochs):
        raise ValueError(f"its epochs are {str(epochs)[:20]!r}")
    if donor is not None and not (isinstance(donor, list) and len(donor) == 2 and all(map(_is_count, donor))):
        raise ValueError(f"its donor is {str(donor)[:20]!r}")
    return Request(
        trial,
        rung,
        stored.params,
        epochs=epochs,
        repeat=repeat,
        donor=None if donor is None else Donor(*donor),
    )


def evaluation_of(
    stored: FrozenTrial, request: Request, objectives: Collection[str], rows: Rows
) -> tuple[Evaluation, float]:
    """The evaluation that answers a stored request, and after how many seconds of search it came.

    Args:
        stored: one that is over.
        request: it.
        objectives: metrics that a finished one has.
        rows: of the study.

    Raises:
        ValueError: the record is none.
    """
    record = dict(_table("record", stored.user_attrs.get("record")))
    at, _ = record.pop("at", None), record.pop(ROWS, None)
    if not _is_number(at):
        raise ValueError(f"it came after {str(at)[:20]!r} seconds")
    if unknown := sorted(record.keys() - KNOWN):
        raise ValueError(f"it has an unknown field {unknown[0][:40]!r}")
    if record.get("state") not in get_args(State):
        raise ValueError(f"its state is {str(record.get('state'))[:40]!r}")
    own = (record.get("trial"), record.get("rung"), record.get("repeat", 0))
    if own != (request.trial, request.rung, request.repeat):
        raise ValueError("it answers another request")
    record |= {name: _numbers(name, record[name]) for name in NUMBERS if name in record}
    record |= {name: _table(name, record[name]) for name in TABLES if name in record}
    odd = [name for name, value in record.get("read", {}).items() if not isinstance(value, int | float | str)]
    if odd:
        raise ValueError(f"it read {odd[0][:40]!r} as {str(record['read'][odd[0]])[:40]!r}")
    record["structure"] = rows.unpack(record.get("structure", {}))
    _table("architecture", record.get("structure", {}).get("architecture", {}))
    _table("sources", record.get("measurement", {}).get("sources", {}))
    if not isinstance(record.get("reason", ""), str) or not isinstance(record.get("is_poison", False), bool):
        raise ValueError("its reason is no text")
    if not isinstance(record.get("seed", 0), int):
        raise ValueError(f"its seed is {str(record['seed'])[:20]!r}")
    lacking = sorted(set(objectives) - record.get("metrics", {}).keys())
    if record["state"] == "finished" and lacking:
        raise ValueError(f"it has no {lacking[0]}")
    record["read"] = once(record.get("read", {}), request.choices)
    return Evaluation(choices=request.choices, **record), float(at)


def once(read: dict[str, Value], choices: dict[str, Value]) -> dict[str, Value]:
    """What was read of some choices: as a rule all, and then the choices themselves, which are there already."""
    return choices if read == choices else read


class Rows:
    """Rows of tables of layers, numbered: of thousands of candidates most layers are alike.

    On record an evaluation has numbers for its rows, and with them the rows that none before it had; in memory all
    hold the same rows. Studies of format 1 have the rows themselves.

    Args:
        records: of the evaluations so far, also such as are none of ours.
    """

    def __init__(self, records: Iterable[Any] = ()) -> None:
        self._rows: dict[int, dict[str, Any]] = {}  # those that are on record
        self._numbers: dict[Any, int] = {}
        self._unnumbered: dict[Any, dict[str, Any]] = {}  # of format 1
        for record in records:
            told = record.get(ROWS) if isinstance(record, dict) else None
            for name, row in told.items() if isinstance(told, dict) else ():
                key = _key(row) if isinstance(row, dict) else None
                if key is not None and name.isdecimal() and len(name) <= MOST_DIGITS:
                    self._rows[int(name)] = row
                    self._numbers.setdefault(key, int(name))
        self._next = max(self._rows, default=-1) + 1

    def pack(self, record: dict[str, Any]) -> dict[str, Any]:
        """The structure of a record as it is held in memory; the record itself gets numbers in its place."""
        structure: dict[str, Any] = record["structure"]
        layers = structure.get("layers")
        if not isinstance(layers, list):
            return structure
        entered: list[Any] = []
        for row in layers:
            key = _key(row) if isinstance(row, dict) else None
            if key is not None and key not in self._numbers:
                self._rows[self._next] = self._unnumbered.get(key) or row
                self._numbers[key] = self._next
                record.setdefault(ROWS, {})[str(self._next)] = row
                self._next += 1
            entered.append(row if key is None else self._numbers[key])
        record["structure"] = {**structure, "layers": entered}
        return {**structure, "layers": [self._rows[n] if isinstance(n, int) else n for n in entered]}

    def unpack(self, structure: dict[str, Any]) -> dict[str, Any]:
        """A structure that is on record, as it is held in memory.

        Raises:
            ValueError: a row is not there.
        """
        layers = structure.get("layers")
        if not isinstance(layers, list):
            return structure
        try:
            return {**structure, "layers": [self._held(row) for row in layers]}
        except KeyError as error:
            raise ValueError(f"its layers have a row {error} that is nowhere") from None

    def _held(self, row: Any) -> Any:
        if isinstance(row, int):
            return self._rows[row]
        key = _key(row) if isinstance(row, dict) else None
        if key is None:
            return row
        if key in self._numbers:
            return self._rows[self._numbers[key]]
        return self._unnumbered.setdefault(key, row)


def _key(row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...] | None:
    """What tells a row from others; None where it holds tables."""
    key = tuple(row.items())
    try:
        hash(key)
    except TypeError:
        return None
    return key


def intern_names(log: Any) -> None:
    """Let the names in a line of a journal be there once for all lines that have them, in place."""
    if isinstance(log, dict):
        _intern(log, ("params", "distributions"))
        given = log.get("user_attr")
        if isinstance(given, dict) and isinstance(record := given.get("record"), dict):
            _intern(record, ("read", "structure", *NUMBERS))


def _intern(tables: dict[str, Any], fields: Iterable[str]) -> None:
    """Let the names in some tables be there once for all that have them."""
    for field in fields:
        if isinstance(table := tables.get(field), dict):
            tables[field] = {sys.intern(name): value for name, value in table.items()}


def _table(name: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"its {name} is {str(found)[:40]!r}")
    return found


def _numbers(name: str, found: Any) -> dict[str, float]:
    """Numbers by name; what JSON cannot hold was written as null."""
    table = {key: math.nan if value is None else value for key, value in _table(name, found).items()}
    wrong = [key for key, value in table.items() if not _is_number(value) and value == value]
    if wrong:
        raise ValueError(f"its {name} has {str(table[wrong[0]])[:40]!r} for {wrong[0][:40]!r}")
    return table


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
