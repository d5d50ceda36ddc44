"""What a driver leaves of its workers while it searches."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.study.live import LIVE, Live


def test_what_is_shown_is_read_by_others_until_it_is_cleared(tmp_path: Path) -> None:
    own, other = Live(tmp_path), Live(tmp_path)
    own.show({"workers": 2}, write=True)
    assert own.read() == other.read() == {"workers": 2}
    own.clear()
    assert own.read() is other.read() is None


def test_who_may_not_write_remembers_it_alone(tmp_path: Path) -> None:
    own = Live(tmp_path)
    own.show({"workers": 2}, write=False)
    assert own.read() == {"workers": 2} and Live(tmp_path).read() is None


@pytest.mark.parametrize("content", ["[1]", "{", "\\udc80"])
def test_what_is_no_table_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / LIVE).write_text(content)
    assert Live(tmp_path).read() is None


def test_a_folder_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    own = Live(tmp_path / "gone")
    own.show({"workers": 2}, write=True)
    own.clear()
    assert own.read() is None
