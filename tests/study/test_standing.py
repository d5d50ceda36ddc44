"""Where a study stands, and when that is worked out."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import add, new_study

import autoprune.study.standing as module
from autoprune.study.standing import Standing


def test_it_is_worked_out_once_and_only_when_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = module.standing

    def counted(study: object) -> object:
        asked.append(1)
        return real(study)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "standing", counted)
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5, ratio=0.25)
        seen = Standing(study)
        assert not asked and "status" not in seen and dict(seen) == study.status()
        assert seen["trials"]["finished"] == 1 and len(asked) == 2


def test_what_is_modelled_is_told_apart_from_what_is_measured(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5, ratio=0.25)
        assert "modelled" not in study.status()
        for trial in study.trials:
            trial.evaluations[0].measurement = {
                "sources": {"latency_ms": "modelled: pi4", "macs": "modelled: no"}
            }
        assert study.status()["modelled"] == {"latency_ms": {"trials": 1, "source": "modelled: pi4"}}
