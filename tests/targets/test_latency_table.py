"""Latencies of layers on disk: shared, and no trouble when they cannot be read or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune.targets.latency_table import LatencyTable


class Machine:
    """A target, as far as a table looks at one."""

    def __init__(self, key: str) -> None:
        self._key = key

    def machine_key(self) -> str:
        return self._key


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    return tmp_path


def table(key: str = "here") -> LatencyTable:
    target: Any = Machine(key)
    return LatencyTable(target)


def test_another_process_finds_what_one_has_measured(cache: Path) -> None:
    first, second = table(), table()
    first.put("conv 16", 0.25)
    second.put("conv 32", 0.5)
    found = table()
    assert (found.get("conv 16"), found.get("conv 32")) == (0.25, 0.5)
    assert table("elsewhere").get("conv 16") is None


def test_a_passing_measurement_is_for_this_process_only(cache: Path) -> None:
    here = table()
    here.put("conv 16", 0.25, lasting=False)
    here.put("conv 32", 0.5)
    assert here.get("conv 16") == 0.25
    assert table().get("conv 16") is None


def test_a_damaged_file_is_measured_anew(cache: Path) -> None:
    table().put("conv", 0.25)
    for file in cache.glob("layers-*.json"):
        file.write_text("{half", encoding="utf-8")
    found = table()
    assert found.get("conv") is None
    found.put("conv", 0.5)
    assert table().get("conv") == 0.5


def test_without_a_place_on_disk_it_remembers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "file"))
    found = table()
    found.put("conv", 0.25)
    assert found.get("conv") == 0.25
    anything: Any = object()
    assert LatencyTable(anything).get("conv") is None
