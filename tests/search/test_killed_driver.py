"""A driver that is killed or interrupted in the middle of a search on a real Ray loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from inline_workers import InlineWorkers

from autoprune.errors import RunFolderError
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.study import Study

DRIVER = Path(__file__).parent / "driver.py"


def start(run: Path, trials: int) -> tuple[subprocess.Popen[str], set[tuple[int, int]]]:
    """A driver at work, and the (trial, rung) that it has reported so far."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), str(run), str(trials)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(12)]
    return process, {(int(trial), int(rung)) for trial, rung in (line.split() for line in lines)}


def test_kill_9_loses_no_evaluation_and_resume_finishes_the_budget(tmp_path: Path) -> None:
    process, reported = start(tmp_path / "run", 300)  # far more than end while the lock is tried for a second
    with pytest.raises(RunFolderError, match="another search is at work"):
        Study.open(tmp_path / "run", write=True)
    process.kill()
    process.communicate()
    with Study.open(tmp_path / "run", write=True) as study:
        assert study.state == "interrupted"
        on_record = {(trial.number, rung) for trial in study.trials for rung in trial.evaluations}
        assert reported <= on_record
        assert 0 < len(study.pending) <= 2
        run_search(study, InlineWorkers(), make_sampler("evolution", 1))
        assert len(study.results) == 300 and study.state == "finished"
        assert reported <= {(trial.number, rung) for trial in study.trials for rung in trial.evaluations}


@pytest.mark.parametrize("notice", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_and_a_preemption_notice_stop_it_cleanly(tmp_path: Path, notice: int) -> None:
    process, reported = start(tmp_path / "run", 1000)
    os.kill(process.pid, notice)
    process.communicate(timeout=30)
    assert process.returncode != 0
    study = Study.open(tmp_path / "run")
    assert (study.state, study.reason) == ("interrupted", "by the user")
    assert reported <= {(trial.number, rung) for trial in study.trials for rung in trial.evaluations}
