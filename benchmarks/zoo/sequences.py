"""Sequences, mostly recurrent: the hidden size is written into several parameters at once, gate by gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One sequence of 12 vectors."""
    return torch.randn(1, 12, 10)


def tokens() -> Tensor:
    """One text of 12 tokens."""
    return torch.randint(1, 60, (1, 12))


class LastStep(nn.Module):
    """A recurrent layer, read at its last step."""

    def __init__(self, recurrent: nn.Module, width: int) -> None:
        super().__init__()
        self.recurrent, self.hidden, self.head = recurrent, nn.Linear(width, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x)
        return self.head(torch.relu(self.hidden(y[:, -1])))


def lstm() -> nn.Module:
    """Two stacked LSTM layers (Hochreiter and Schmidhuber 1997)."""
    return LastStep(nn.LSTM(10, 24, 2, batch_first=True), 24)


def gru() -> nn.Module:
    """One GRU (Cho et al. 2014)."""
    return LastStep(nn.GRU(10, 32, batch_first=True), 32)


def bidirectional_lstm() -> nn.Module:
    """Both directions, concatenated."""
    return LastStep(nn.LSTM(10, 20, batch_first=True, bidirectional=True), 40)


class Tagger(nn.Module):
    """Embeddings, a GRU in both directions, one label for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(60, 16)
        self.recurrent = nn.GRU(16, 20, batch_first=True, bidirectional=True)
        self.hidden, self.head = nn.Linear(40, 32), nn.Linear(32, 7)

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.recurrent(self.tokens(ids))
        return self.head(torch.tanh(self.hidden(y)))


class StepByStep(nn.Module):
    """An LSTM cell called in a loop of our own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.cell = nn.Linear(10, 24), nn.LSTMCell(24, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = cell = x.new_zeros(x.shape[0], 32)
        for step in range(x.shape[1]):
            hidden, cell = self.cell(torch.relu(self.enter(x[:, step])), (hidden, cell))
        return self.head(hidden)


class ConvolutionThenRecurrence(nn.Module):
    """Features from convolutions, read by a GRU through the last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(10, 24, 3, padding=1), nn.Conv1d(24, 32, 3, padding=1)
        self.recurrent, self.head = nn.GRU(32, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x.transpose(1, 2)))))
        _, last = self.recurrent(x.transpose(1, 2))
        return self.head(last[-1])


class DiagonalRecurrence(nn.Module):
    """A gated linear recurrence without hidden matrix, as recent state-space layers have (Gu and Dao 2023)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(10, width), nn.Linear(10, width)
        self.decay = nn.Parameter(torch.randn(width))
        self.leave, self.head = nn.Linear(width, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        signal, gate = self.enter(x), torch.sigmoid(self.gate(x))
        decay, state, states = torch.sigmoid(self.decay), torch.zeros_like(signal[:, 0]), []
        for step in range(x.shape[1]):
            state = decay * state + (1 - decay) * signal[:, step]
            states.append(state)
        y = torch.stack(states, 1) * gate
        return self.head(torch.relu(self.leave(y)).mean(1))


class ConvolutionalReader(nn.Module):
    """Convolutions of several widths over embeddings, the largest of each kept (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(60, 24)
        self.convolutions = nn.ModuleList(nn.Conv1d(24, 16, size) for size in (2, 3, 4))
        self.head = nn.Linear(48, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids).transpose(1, 2)
        return self.head(torch.cat([torch.relu(layer(x)).amax(2) for layer in self.convolutions], 1))


MODELS = [
    ("LSTM/GRU", lstm, example_inputs),
    ("LSTM/GRU", gru, example_inputs),
    ("LSTM/GRU", bidirectional_lstm, example_inputs),
    ("LSTM/GRU", Tagger, tokens),
    ("LSTM/GRU", StepByStep, example_inputs),
    ("LSTM/GRU", ConvolutionThenRecurrence, example_inputs),
    ("LSTM/GRU", DiagonalRecurrence, example_inputs),
    ("1-D and 3-D convolution", ConvolutionalReader, tokens),
]
"""Family, factory without arguments, example inputs."""
