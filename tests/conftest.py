"""What several test files share."""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny_spec import TINY_SPEC

# How long an example takes says something of the machine and of what else runs there.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))  # for workers


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Processes that tests start take Ctrl-C, also where the tests run in the background, which ignores it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Two threads under contention are slower than one, and sums come out in another order."""
    torch.set_num_threads(1)
    yield


@pytest.fixture
def tiny_spec() -> dict[str, Any]:
    """A complete small spec, as plain data, to be changed at will."""
    return copy.deepcopy(TINY_SPEC)
