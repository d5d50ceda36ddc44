"""Checkpoint files: there in full or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import RunFolderError
from autoprune.study.checkpoints import Checkpoints


def test_the_nearest_rung_below_is_loaded(tmp_path: Path) -> None:
    files = Checkpoints(tmp_path)
    files.save(3, 0, b"zero")
    files.save(3, 2, b"two")
    assert [files.load(3, rung) for rung in range(4)] == [b"zero", b"zero", b"two", b"two"]
    assert files.load(4, 0) is None
    assert Checkpoints(tmp_path).load(3, 2) == b"two"


def test_what_is_left_of_an_interrupted_write_is_not_loaded(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(0, 0, b"zero")
    (tmp_path / "0" / "rung-1.tmp").write_bytes(b"hal")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "rung-x.safetensors").write_bytes(b"")
    assert Checkpoints(tmp_path).load(0, 1) == b"zero"
    assert Checkpoints(tmp_path).trials == {0}


def test_a_disk_that_does_not_take_it_is_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(RunFolderError, match=r"rung-0.safetensors cannot be written"):
        Checkpoints(tmp_path / "checkpoints").save(0, 0, b"zero")
