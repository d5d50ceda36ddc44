"""Counters of energy, where a machine has them; the folder of one is written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.targets.energy import Counter, rapl
from autoprune.targets.measure import measured_energy


def package(folder: Path, number: int, energy: float) -> None:
    at = folder / f"intel-rapl:{number}"
    at.mkdir(exist_ok=True)
    (at / "energy_uj").write_text(f"{energy}\n")
    (at / "max_energy_range_uj").write_text("1000\n")


def test_packages_are_summed_and_a_counter_may_start_again(tmp_path: Path) -> None:
    package(tmp_path, 0, 900)
    package(tmp_path, 1, 500)
    counter = rapl(tmp_path)
    assert counter is not None
    before = counter.read()
    package(tmp_path, 0, 100)
    package(tmp_path, 1, 600)
    assert (before, counter.since(before)) == (1400.0, 1300.0)


@pytest.mark.parametrize("content", [None, "not a number"])
def test_a_counter_that_cannot_be_read_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        package(tmp_path, 0, 1)
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(content)
    assert rapl(tmp_path) is None


def test_energy_is_that_of_one_run_and_says_that_it_is_measured() -> None:
    drawn = [0.0]

    def run() -> None:
        drawn[0] += 3.0

    found = measured_energy(run, Counter("RAPL", lambda: drawn[0], 1e9), milliseconds=100.0)
    assert found == {"figures": {"energy_uj": 3.0}, "sources": {"energy_uj": "measured by RAPL"}}
    assert measured_energy(run, None, 1.0) == {}
