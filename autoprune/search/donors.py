"""Which finished trial a new one starts from, in place of the uncompressed reference (`search.inherit`).

A donor has the same architecture and has lost nothing that the new trial keeps: then all of its weights can be taken
over, unit by unit (`autoprune.inheritance`). It has been trained in its compressed form, which the reference never was.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.record import Donor
from autoprune.space import ARCHITECTURE, Space, Value
from autoprune.spec import Spec
from autoprune.study import Study, Trial

LOST = (".ratio", ".drop")  # ends of the choices of how much is gone


def trained_architecture(spec: Spec, space: Space) -> dict[str, Value]:
    """The architecture of which there are weights from the start, by choice; empty where a supernet has all."""
    neutral = space.neutral() if spec.supernet is None else {}
    return {name: value for name, value in neutral.items() if name.startswith(ARCHITECTURE)}


def nearest_donor(study: Study, point: Mapping[str, Value]) -> Donor | None:
    """The trained trial nearest to `point`, with its weights; None where the reference is the nearer start.

    The nearest is the one that has lost most of what `point` will lose, then the one trained longest, then the first.

    Args:
        study: its trials have checkpoints as far as they were good.
        point: the new trial.
    """
    epochs = study.spec.rung_epochs
    fit = [
        trial
        for trial in study.results
        if trial.searched is not None
        and epochs[min(trial.searched.rung, len(epochs) - 1)] > epochs[0]
        and _loses_no_more(trial.choices, point)
    ]
    for trial in sorted(fit, key=lambda trial: _nearness(trial, point)):
        rung = trial.searched.rung if trial.searched is not None else 0
        weights = study.load_checkpoint(trial.number, rung)
        if weights is not None:
            return Donor(trial.number, rung, weights)
    return None


def _loses_no_more(donor: Mapping[str, Value], point: Mapping[str, Value]) -> bool:
    """Whether the architecture is the same, and no choice takes more from the donor than from the new trial."""
    for name, value in point.items():
        if name.startswith(ARCHITECTURE) and donor[name] != value:
            return False
        if name.endswith(LOST) and float(donor[name]) > float(value):
            return False
    return True


def _nearness(trial: Trial, point: Mapping[str, Value]) -> tuple[float, int, int]:
    """What donors are sorted by, nearest first."""
    apart = sum(float(point[name]) - float(trial.choices[name]) for name in point if name.endswith(LOST))
    return apart, -trial.rung, trial.number
