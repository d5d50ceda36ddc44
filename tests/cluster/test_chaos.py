"""The chaos benchmark in small: a search on several nodes, of which something is killed all the time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_is_killed() -> None:
    command = [sys.executable, str(SCRIPT), "--trials", "25", "--kills", "6", "--minutes", "8"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=590)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "lost 0, duplicated 0" in result.stdout
