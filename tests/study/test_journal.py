"""The journal: written in groups, and readable after a driver was killed in the middle of a line."""

from __future__ import annotations

import json
import resource
import tracemalloc
from pathlib import Path

import pytest
from small_study import add, finished, new_study, point

from autoprune.errors import RunFolderError
from autoprune.record import Request
from autoprune.study import Study, patience
from autoprune.study.journal import Journal


def journal_of(folder: Path) -> Path:
    with new_study(folder) as study:
        add(study, 88.0, 1.5)
        add(study, 87.0, 1.0)
    return folder / "study.journal"


def test_a_torn_last_line_is_ignored_and_then_cut_off(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "run")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole[:-20])
    assert [t.state for t in Study.open(path.parent).trials] == ["stopped", "running"]
    assert path.read_bytes() == whole[:-20]
    with Study.open(path.parent, write=True) as study:
        assert len(study.pending) == 1
    assert path.read_bytes() == b"".join(lines[:-1])


def test_every_cut_of_the_file_can_be_resumed(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "run")
    whole = path.read_bytes()
    header = sum(len(line) for line in whole.splitlines(keepends=True)[:3])
    for end in range(header, len(whole), 97):
        path.write_bytes(whole[:end])
        with Study.open(path.parent, write=True) as study:
            assert len(study.results) + len(study.pending) == len(study.trials) <= 2


def test_nothing_is_written_before_a_commit(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        before = (tmp_path / "run" / "study.journal").read_bytes()
        study.log_request(Request(0, 0, {}))
        assert (tmp_path / "run" / "study.journal").read_bytes() == before
        study.commit()
        assert len((tmp_path / "run" / "study.journal").read_bytes()) > len(before)


@pytest.mark.parametrize("damage", [b"{not json\n", b'{"op_code": 99}\n', b"[]\n", b"\xff\xfe\n"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    path = journal_of(tmp_path / "run")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = damage
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError, match=r"study.journal: line 5 is damaged"):
        Study.open(path.parent)


def test_what_is_no_journal_is_not_touched(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "run")
    path.write_bytes(b"a picture of a cat")
    with pytest.raises(RunFolderError, match="line 1 is damaged"):
        Study.open(path.parent, write=True)
    assert path.read_bytes() == b"a picture of a cat"
    path.write_bytes(b"")
    with pytest.raises(RunFolderError, match="is not the journal of a study of autoprune"):
        Study.open(path.parent)


def test_a_study_of_a_newer_version_is_named(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "run")
    path.write_text(path.read_text().replace('"format":3,', '"format":4,', 1))
    with pytest.raises(
        RunFolderError, match=r"by a newer autoprune \(format 4\); this one reads formats up to 3"
    ):
        Study.open(path.parent)


def test_a_disk_that_fills_up_in_mid_line_is_reported_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.1)
    path = tmp_path / "run" / "study.journal"
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
        whole = path.read_bytes()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))
        try:
            with pytest.raises(RunFolderError, match="study.journal cannot be written: File too large"):
                add(study, 87.0, 1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert path.read_bytes() == whole
    assert len(Study.open(tmp_path / "run").results) == 2  # closing tried again, with room


def test_trials_of_a_journal_share_their_distributions(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "run")
    first, second = Journal(path, write=False).storage().get_all_trials(0, deepcopy=False)
    assert first.distributions and first.distributions == second.distributions
    assert all(first.distributions[name] is second.distributions[name] for name in first.distributions)


def test_layers_that_are_alike_take_next_to_nothing_on_disk_and_in_memory(tmp_path: Path) -> None:
    journal, count = tmp_path / "run" / "study.journal", 300
    with new_study(tmp_path / "run") as study:
        for number in range(count):
            rows = [{"name": f"layer.{n}", "kind": "Conv2d", "macs": 1000 * n, "bits": 8} for n in range(120)]
            evaluation = finished(number, 0, point(number / 1000), 88.0, 1.5)
            evaluation.structure = {"architecture": {}, "layers": rows}
            study.record(Request(number, 0, evaluation.choices), evaluation)
            if not number:
                first = journal.stat().st_size
    tracemalloc.start()
    try:
        trials = Study.open(tmp_path / "run").trials
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one = len(json.dumps(rows))
    assert first > one and (journal.stat().st_size - first) / (count - 1) < 0.25 * one
    assert peak / count < one
    assert trials[0].structure["layers"] == trials[299].structure["layers"] == rows
