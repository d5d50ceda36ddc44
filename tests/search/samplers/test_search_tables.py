"""The benchmark on tables, on one of 81 networks."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "search_tables.py"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    choices = np.stack(np.meshgrid(*[range(3)] * 4), axis=-1).reshape(-1, 4)
    size = 1.0 + choices.sum(axis=1)
    np.savez(
        tmp_path / "table.npz",
        ops=choices,
        accuracy=100 - 50 / (size + choices[:, 0]),
        ms=size**1.5,
        size=size,
    )
    return tmp_path / "table.npz"


def run(table: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    columns = ["--choices", "ops", "--accuracy", "accuracy", "--latency", "ms"]
    command = [sys.executable, str(SCRIPT), "--table", str(table), *columns, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_reports_every_sampler_and_budget_and_the_whole_table_is_everything(table: Path) -> None:
    search = ["--costs", "size", "--samplers", "auto,random", "--budgets", "15,81", "--seeds", "2"]
    results = json.loads(run(table, *search, "--in-flight", "3", "--json").stdout)
    assert set(results) == {"auto", "random"} and set(results["auto"]) == {"15", "81"}
    assert results["random"]["81"]["values"] == pytest.approx([1.0, 1.0])
    assert 0.0 < results["auto"]["15"]["median"] <= 1.0


def test_a_missing_column_is_named(table: Path) -> None:
    assert "no column joules (has ops, accuracy, ms, size)" in run(table, "--costs", "joules").stderr


def test_an_optimizer_elsewhere_that_repeats_itself_gets_random_points_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stubborn:
        def __init__(self) -> None:
            self.told: list[int] = []

        def ask(self) -> dict[str, int]:
            return {"c0": 1, "c1": 0}

        def tell(self, number: int, losses: object) -> None:
            self.told.append(number)

    monkeypatch.syspath_prepend(SCRIPT.parent)
    search_tables: Any = importlib.import_module("search_tables")
    choices = np.stack(np.meshgrid([0, 1], [0, 1]), axis=-1).reshape(-1, 2)
    table = search_tables.Table(
        choices, np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0], [9.0, 9.0]]), {}, np.inf
    )
    rival = Stubborn()
    found = search_tables.search(table, search_tables.Elsewhere(rival, table), [3], 1, seed=0)
    assert found[3] > 0.0
    assert rival.told == list(range(len(rival.told))) and len(rival.told) > 1
