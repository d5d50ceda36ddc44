"""What is seen of a search while it runs, by whoever looks from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec

from autoprune.record import Evaluation, Request
from autoprune.search import watch as watch_module
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.search.watch import Watch
from autoprune.study import Study
from autoprune.study.live import LIVE


def test_others_see_workers_queue_pace_and_evaluations_by_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "EVERY_SECONDS", 0.0)
    seen: list[dict[str, Any]] = []

    def evaluate(request: Request) -> Evaluation:
        seen.append(Study.open(tmp_path / "run").status())
        return landscape(request)

    spec = search_spec(budget={"trials": 8})
    with Study.create(tmp_path / "run", spec, SPACE, {}, BASELINE) as study:
        run_search(study, InlineWorkers(evaluate, size=3), make_sampler("random", 0))
        assert study.status()["live"] is None  # it has ended
    first, last = seen[0], seen[-1]
    assert first["live"]["workers"] == {"worker": {"busy": 3, "idle": 0, "starting": 0}}
    assert first["rungs"]["0"]["running"] == 3 and first["live"]["seconds_left"] is None
    assert 0 < last["live"]["utilisation"] <= 1 and last["live"]["queue"] == 0
    assert seen[len(seen) // 2]["live"]["seconds_left"] > 0
    rungs = study.status()["rungs"]
    assert sum(one["finished"] for one in rungs.values()) == sum(
        sum(e.state == "finished" for e in trial.evaluations.values()) for trial in study.trials
    )


def test_utilisation_is_the_share_of_their_time_that_workers_were_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now[0])
    with Study.create(tmp_path / "run", search_spec(), SPACE, {}, BASELINE) as study:
        workers = InlineWorkers(size=2)
        watch = Watch(study, workers)
        watch.look()
        now[0] = 10.0  # nothing was under way
        workers.submit(Request(0, 0, SPACE.neutral()))
        watch.look()
        now[0] = 20.0  # one of two
        watch.look()
    assert watch.seen()["utilisation"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"workers": [1], "queue": "x"}', '{"workers": {"a": {"busy": "1"}}}']
)
def test_what_others_left_there_is_data(tmp_path: Path, content: str) -> None:
    with Study.create(tmp_path / "run", search_spec(), SPACE, {}, BASELINE) as study:
        study.set_state("running")
        (tmp_path / "run" / LIVE).write_text(content, encoding="utf-8")
        found = Study.open(tmp_path / "run").status()
        assert found["state"] == "running" and json.dumps(found["live"])
