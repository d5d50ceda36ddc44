"""What trials say of training-free proxies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.record import Evaluation, Request
from autoprune.report.explanations import explain
from autoprune.space import Options, Space
from autoprune.spec import load_spec
from autoprune.study import Study
from autoprune.study.evidence import LEAST_ARCHITECTURES, evidence_of, rank_correlations, worthwhile

SPACE = Space(
    {"architecture.width": Options(tuple(range(1, 21)), 20), "prune.a.ratio": Options((0.0, 0.5), 0.0)}
)


def made(folder: Path, proxy: str | None, synflow: Callable[[int], float], count: int = 10) -> Study:
    """A study in which wider networks are better, and pruned ones worse."""
    search = {"rungs": [0, 1], **({"proxy": proxy} if proxy else {})}
    space = {"architecture": "default"}
    spec = load_spec({"task": "digits", "space": space, "budget": {"trials": 99}, "search": search})
    study = Study.create(folder, spec, SPACE, {}, {"accuracy": 90.0, "latency_ms": 1.0})
    for width in range(1, count + 1):
        for ratio in (0.0, 0.5):
            number = len(study.trials)
            point: dict[str, Any] = {"architecture.width": width, "prune.a.ratio": ratio}
            found = Evaluation(number, 0, "finished", point, {"latency_ms": 1.0}, read=point)
            found.metrics["accuracy"] = 50.0 + width - 40.0 * ratio
            found.structure["architecture"] = {"width": width}
            found.scores = {"params": float((width * 7) % 11), "synflow": synflow(width)}
            study.record(Request(number, 0, point), found)
    return study


def test_a_study_that_asked_none_says_nothing(tmp_path: Path) -> None:
    with made(tmp_path, None, float) as study:
        assert evidence_of(study) == {} and "proxies" not in study.status()


@pytest.mark.parametrize("proxy", ["auto", "synflow"])
def test_a_proxy_that_ranks_better_than_the_parameter_count_is_used(tmp_path: Path, proxy: str) -> None:
    with made(tmp_path, proxy, float) as study:
        found = evidence_of(study)
        assert found["architectures"] == 10 and found["correlations"]["synflow"] == pytest.approx(1.0)
        assert found["used"] == ["synflow"] and study.status()["proxies"] == found
        assert "the search goes by synflow" in explain(study)["sentences"][-1]
    assert evidence_of(Study.open(tmp_path)) == found  # the scores are on record


@pytest.mark.parametrize("proxy", ["auto", "synflow"])
def test_one_that_does_not_is_switched_off(tmp_path: Path, proxy: str) -> None:
    with made(tmp_path, proxy, lambda width: -float(width)) as study:
        assert evidence_of(study)["used"] == []
        assert "none is used" in explain(study)["sentences"][-1]


def test_before_there_is_evidence_only_a_proxy_by_name_is_used(tmp_path: Path) -> None:
    few = LEAST_ARCHITECTURES - 1
    with made(tmp_path / "auto", "auto", float, few) as study:
        assert evidence_of(study) == {"architectures": few, "correlations": {}, "used": []}
    with made(tmp_path / "named", "synflow", float, few) as study:
        assert evidence_of(study)["used"] == ["synflow"]
        assert f"judged from {LEAST_ARCHITECTURES} on" in explain(study)["sentences"][-1]


def test_what_is_missing_or_all_alike_ranks_nothing() -> None:
    found = rank_correlations([{"params": 1.0, "snip": float("nan")}] * 3, [1.0, 2.0, 3.0])
    assert worthwhile(found) == []
