"""A disk that is full or gone for a while, and clocks that jump."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_study import add, finished, new_study, point

from autoprune.errors import RunFolderError
from autoprune.record import Request
from autoprune.study import Study, patience


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow any more."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def room_again() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 10.0)
    said: list[str] = []
    with new_study(tmp_path / "run") as study:
        study.warn = said.append
        add(study, 88.0, 1.5)
        request.getfixturevalue("full_disk")
        timer = threading.Timer(1.5, room_again)
        timer.start()
        asked = Request(1, 0, point())
        study.log_request(asked)
        answer = finished(1, 0, point(), 87.0, 1.0)
        answer.checkpoint = b"w" * 1000
        study.save_checkpoint(answer)
        study.log_evaluation(answer)
        study.commit()
        timer.join()
    read = Study.open(tmp_path / "run")
    assert len(read.results) == 2 and read.load_checkpoint(1) == b"w" * 1000
    assert len(said) == 1 and "cannot be written" in said[0] and "trying again" in said[0]
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_disk_that_stays_full_ends_it_with_what_was_recorded_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.3)
    study = new_study(tmp_path / "run")
    add(study, 88.0, 1.5)
    request.getfixturevalue("full_disk")
    study.log_request(Request(1, 0, point()))
    with pytest.raises(RunFolderError, match="was recorded before is safe, and `autoprune resume"):
        study.commit()
    room_again()
    study.close()
    assert len(Study.open(tmp_path / "run").trials) == 2


def test_the_wall_clock_may_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_study(tmp_path / "run") as study, study.clock():
        monkeypatch.setattr(time, "time", lambda: 0.0)  # back to 1970
        add(study, 88.0, 1.5)
        assert 0.0 <= study.seconds < 60.0
    assert 0.0 <= Study.open(tmp_path / "run").seconds < 60.0
