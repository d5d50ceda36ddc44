"""A few hundred of the bad inputs of `benchmarks/fuzz.py`, each a clean error or no error at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.mark.parametrize("inputs", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_bad_input_is_a_clean_error(inputs: int) -> None:
    command = [sys.executable, str(SCRIPT), "--inputs", str(inputs), "--seed", str(inputs)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=890)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert all(kind in result.stdout for kind in ("spec", "text", "run", "artifact"))
