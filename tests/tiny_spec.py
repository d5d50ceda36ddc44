"""A complete small spec for `tiny_task`; in a file of its own because several folders have a `conftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY_SPEC: dict[str, Any] = {
    "name": "tiny",
    "task": f"{Path(__file__).parent / 'tiny_task.py'}:TinyTask",
    "space": {
        "architecture": {"width": [4, 8], "depth": [1, 2]},
        "prune": {"ratio": [0.0, 0.75], "criterion": ["l1", "taylor"], "schedule": ["one_shot", "iterative"]},
        "distill": {"temperature": [1, 8], "kd_weight": [0.0, 1.0]},
        "quantize": {"weight_bits": [4, 8, 32], "activation_bits": [8, 32], "quantizer": ["ptq", "qat"]},
    },
    "target": {"use": "onnxruntime", "rounds": 4, "block_ms": 2.0, "channel_multiple": 1},
    "train": {"epochs": 3, "batch_size": 32},
    "budget": {"trials": 8},
    "search": {"rungs": [0, 1]},
    "cluster": {"workers": 1},
}
