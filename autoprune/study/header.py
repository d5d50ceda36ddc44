"""What a study says of itself: what was asked for, where it stands, and what is to be re-validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import BadInput, RunFolderError
from autoprune.space import Space
from autoprune.spec import Spec
from autoprune.study.reading import REVALIDATION, checked_attributes, checked_baseline
from autoprune.study.storage import HEADER, JOURNAL

FORMAT, FORMATS = 3, (1, 2, 3)  # that is written, and that are read
STATE = "state"


def header_of(
    spec: Spec, space: Space, baseline: Mapping[str, float | None], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What a new study begins with, as plain data."""
    return {
        "format": FORMAT,
        "spec": spec.to_yaml(),
        "space": space.to_json(),
        "baseline": dict(baseline),
        "provenance": dict(provenance),
    }


class Header:
    """The attributes of a study in its storage. What is noted is durable at the storage's next commit.

    Args:
        storage: of Optuna's kind, with one study in it.
        folder: the run folder, for errors to name.
        write: write it in today's format from now on.

    Attributes:
        study: its number in the storage.
        spec: what was asked for.
        space: what may be decided.
        baseline: metrics of the uncompressed network.

    Raises:
        RunFolderError: it is none of ours, of a format that is not read here, or damaged.
    """

    def __init__(self, storage: Any, folder: Path, *, write: bool) -> None:
        self._storage, journal = storage, folder / JOURNAL
        studies = storage.get_all_studies()
        attributes = studies[0].user_attrs if studies else {}
        header = attributes.get(HEADER)
        if not isinstance(header, dict) or not isinstance(header.get("format"), int):
            raise RunFolderError(f"{journal} is not the journal of a study of autoprune")
        if header["format"] not in FORMATS:
            age = "a newer" if header["format"] > FORMAT else "another"
            raise RunFolderError(
                f"{journal} was written by {age} autoprune (format {header['format']}); this one reads formats up to "
                f"{FORMAT}, so look at it and go on with the version that began it"
            )
        self.study: int = studies[0]._study_id
        try:
            self._attributes = checked_attributes(attributes)
            self.spec = _as_begun(Spec.from_yaml(header["spec"]), header["format"])
            self.space = Space.from_json(header["space"])
            self.baseline = checked_baseline(header["baseline"])
        except (BadInput, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunFolderError(f"{journal} has a damaged header: {error}") from None
        if write and header["format"] != FORMAT:
            self._note(HEADER, {**header, "format": FORMAT, "spec": self.spec.to_yaml()})

    @property
    def provenance(self) -> dict[str, Any]:
        """When, where and with which versions the study was made."""
        found = self._attributes[HEADER].get("provenance")
        return found if isinstance(found, dict) else {}

    @property
    def state(self) -> str:
        """What the last driver noted; one that was killed left `running`."""
        return str(self._attributes.get(STATE, {}).get("state", "interrupted"))

    @property
    def reason(self) -> str:
        """Why the search ended, empty while it has not."""
        return str(self._attributes.get(STATE, {}).get("reason", ""))

    def note_state(self, state: str, reason: str) -> None:
        """Note where the search stands."""
        self._note(STATE, {"state": state, "reason": reason})

    @property
    def revalidation(self) -> dict[str, Any]:
        """The `trials` to re-validate, how often (`count`), and whether that `is_complete`; empty where none was."""
        found: dict[str, Any] = self._attributes.get(REVALIDATION, {})
        return found

    @property
    def repeats(self) -> list[tuple[int, int]]:
        """(trial, repeat) of every re-validation that was asked for, answered or not."""
        asked = self.revalidation
        return [(trial, n) for trial in asked.get("trials", ()) for n in range(1, asked.get("count", 0) + 1)]

    def note_revalidation(self, trials: Sequence[int], count: int, *, is_complete: bool) -> None:
        """Note what is to be re-validated, in place of anything before."""
        self._note(REVALIDATION, {"trials": list(trials), "count": count, "is_complete": is_complete})

    def _note(self, name: str, value: dict[str, Any]) -> None:
        self._storage.set_study_user_attr(self.study, name, value)
        self._attributes = {**self._attributes, name: value}


def _as_begun(spec: Spec, written: int) -> Spec:
    """A spec with the defaults of the format that it was written in, where they have changed since.

    Until format 3 ONNX Runtime took any number of channels: with the multiples of today's default, trials on record
    would be cut to other networks than those that were measured.
    """
    if written >= 3:
        return spec
    target = {
        name: one.model_copy(update={"arguments": {"channel_multiple": 1, **one.arguments}})
        if one.use == "onnxruntime"
        else one
        for name, one in spec.target.items()
    }
    return spec.model_copy(update={"target": target})
