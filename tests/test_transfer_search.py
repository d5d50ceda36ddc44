"""From one task to the next with nothing but the command's own steps: search, export, search on from the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import autoprune
from autoprune.deployed import QuantizedLayer

TASKS = """
import numpy as np
from sklearn.datasets import load_digits
from torch import nn

def half(low, count):
    x, y = load_digits(return_X_y=True)
    chosen = (y >= low) & (y < low + 5)
    return (x[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:count], y[chosen][:count] - low

def low():
    return half(0, 400)

def high():
    return half(5, 200)

def net():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
    )
"""


def spec(name: str, space: dict[str, Any], **task: Any) -> dict[str, Any]:
    return {
        "name": name,
        "task": {"use": "classification", **task},
        "space": space,
        "target": {"use": "onnxruntime", "rounds": 2, "block_ms": 1.0},
        "train": {"epochs": 3, "batch_size": 32},
        "budget": {"trials": 4},
        "search": {"rungs": [0, 1]},
        "cluster": {"workers": 1},
    }


def widths(model: torch.nn.Module) -> list[int]:
    """Outputs of the convolutions, in order."""
    layers: list[Any] = [module for module in model.modules() if getattr(module, "kernel_size", ())]
    return [layer.out_channels for layer in layers]


@pytest.mark.slow
def test_an_artifact_is_searched_on_for_another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.py").write_text(TASKS)
    fields = {"prune": {"ratio": [0.4, 0.6]}, "quantize": {"weight_bits": [4, 8], "activation_bits": [8]}}
    first = autoprune.search(spec("low", fields, model="tasks.py:net", data="tasks.py:low"), run="runs/low")
    pruned = autoprune.load(autoprune.export(first.best(maximize="accuracy"), "out"))
    assert all(width < full for width, full in zip(widths(pruned), [12, 16], strict=True))

    space = {"transfer": {"frozen": [0.0, 1.0]}, **fields, "prune": {"ratio": [0.1, 0.5]}}
    second = autoprune.search(
        spec("high", space, model="out/", data="tasks.py:high", classes=7), run="runs/high"
    )
    assert {trial.state for trial in second.results} <= {"finished", "stopped"}
    assert any("transfer.frozen" in trial.choices for trial in second.results)
    again = autoprune.load(autoprune.export(second.best(maximize="accuracy"), "again"))
    assert isinstance(again, fx.GraphModule)
    assert any(isinstance(module, QuantizedLayer) for module in again.modules())
    assert all(ours < theirs for ours, theirs in zip(widths(again), widths(pruned), strict=True))
    assert again(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
