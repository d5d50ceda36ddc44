"""What several test files share."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))  # for workers


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Two threads under contention are slower than one, and sums come out in another order."""
    torch.set_num_threads(1)
    yield


TINY_SPEC: dict[str, Any] = {
    "name": "tiny",
    "task": f"{Path(__file__).parent / 'tiny_task.py'}:TinyTask",
    "space": {
        "architecture": {"width": [4, 8], "depth": [1, 2]},
        "prune": {"ratio": [0.0, 0.75], "criterion": ["l1", "taylor"], "schedule": ["one_shot", "iterative"]},
        "distill": {"temperature": [1, 8], "kd_weight": [0.0, 1.0]},
        "quantize": {"weight_bits": [4, 8, 32], "activation_bits": [8, 32], "aware": ["ptq", "qat"]},
    },
    "target": {"use": "onnxruntime", "rounds": 4, "block_ms": 2.0},
    "train": {"epochs": 3, "batch_size": 32},
    "budget": {"trials": 8},
    "search": {"rungs": [0, 1]},
    "cluster": {"workers": 1},
}


@pytest.fixture
def tiny_spec() -> dict[str, Any]:
    """A complete small spec, as plain data, to be changed at will."""
    return copy.deepcopy(TINY_SPEC)
