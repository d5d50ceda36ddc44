"""What an engineer writes for autoprune who has a network, loaders and a metric already."""

from __future__ import annotations

from pathlib import Path

from workers_here import searched_here

import autoprune

OWN = '''
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Gestures(nn.Module):
    """Six channels of a motion sensor, four gestures."""
    def __init__(self, width: int = 8):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(6, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, 2 * width, 5, stride=2, padding=2), nn.BatchNorm1d(2 * width), nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, 4)
    def forward(self, signal):
        return {"logits": self.head(self.features(signal).mean(2)), "signal": signal.mean((1, 2))}

def loader(count, seed):
    torch.manual_seed(seed)
    labels = torch.arange(count) % 4
    signals = torch.randn(count, 6, 32) + labels[:, None, None] * torch.linspace(-1, 1, 32)
    return DataLoader(TensorDataset(signals, labels), batch_size=20, shuffle=seed == 0)

def loaders():
    return loader(96, 0), loader(48, 1), loader(48, 2)

def top2(scores, labels):
    return 100 * (scores.topk(2).indices == labels[:, None]).any(1).float().mean()
'''
WRITTEN = """
task: {use: classification, model: "own.py:Gestures", data: "own.py:loaders", metrics: {top2: "own.py:top2"}}
space: {prune: {ratio: [0.0, 0.5]}, distill: true, quantize: {weight_bits: [8, 32]}}
target: {use: onnxruntime, rounds: 4, block_ms: 2.0}
train: {epochs: 2, batch_size: 32}
objectives: {top2: maximize, latency_ms: minimize}
budget: {trials: 3}
search: {rungs: [0, 1]}
cluster: {workers: 1}
"""


def test_a_spec_beside_the_users_own_code_is_enough(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "gestures.yaml").write_text(WRITTEN)
    study = searched_here(tmp_path / "gestures.yaml", tmp_path / "run")
    best = study.best(maximize="top2")
    folder = autoprune.export(best, tmp_path / "out")
    assert len(WRITTEN.strip().splitlines()) <= 25
    assert best.metrics["top2"] > 60
    assert autoprune.load(folder)
