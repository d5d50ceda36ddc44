"""Ready tasks with a decision per token: labelling tokens, and predicting the next one.

Scores of a vocabulary for every token of a split would fill the memory: 1,000 texts of 128 tokens over 30,000 words
are 15 GB. So batches are summarised as they come (`summary`), to four numbers a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoprune.task.classification import problem_of_classes
from autoprune.task.contract import IGNORED, Batch
from autoprune.task.inputs import Array
from autoprune.task.output import main_output
from autoprune.task.ready import ReadyTask


@dataclass
class TokenSummary:
    """What metrics need to know of a batch; every field is `(N, tokens)`.

    Attributes:
        nats: negative log likelihood of the target, 0 where it does not count.
        found: the class with the highest score.
        wanted: the target.
        counted: whether the position counts.
    """

    nats: torch.Tensor
    found: torch.Tensor
    wanted: torch.Tensor
    counted: torch.Tensor


def token_loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, averaged over the tokens that count; 0, not 0 / 0, where none does."""
    counted = (targets != IGNORED).sum().clamp_min(1)
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum") / counted


def summarise(scores: torch.Tensor, targets: torch.Tensor) -> TokenSummary:
    """What is kept of the scores `(N, tokens, classes)` for a batch."""
    nats = F.cross_entropy(scores.float().transpose(1, 2), targets, reduction="none")
    return TokenSummary(nats, scores.argmax(-1), targets, targets != IGNORED)


def _problem(targets: Array, scores: torch.Tensor) -> str:
    if scores.dim() != 3:
        return f"the model's outputs have shape {tuple(scores.shape)}, expected (N, tokens, classes)"
    if targets.ndim != 2:
        return f"y has shape {targets.shape}, expected one class number per token, (N, tokens)"
    return problem_of_classes(targets, scores.shape[2], IGNORED)


class TokenClassificationTask(ReadyTask):
    """A class for every token (named entities, parts of speech): cross-entropy; accuracy and F1 in percent.

    The network gives `(N, tokens, classes)`; targets are `(N, tokens)`, -100 where a position does not count.
    Metrics of your own are given flat what counts: the class found and the one wanted, `(tokens,)` each.
    """

    outputs = "token_logits"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, averaged over the tokens that count."""
        return token_loss(main_output(self, outputs), batch.targets)

    def summary(self, outputs: Any, batch: Batch) -> TokenSummary:
        """What is kept of the outputs for a batch."""
        return summarise(main_output(self, outputs), batch.targets)

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the targets of a split, given outputs of the network; empty when nothing is."""
        return _problem(targets, main_output(self, outputs))

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`accuracy` and `error` over the tokens that count, `f1` (mean over classes), and `cross_entropy`."""
        from sklearn.metrics import f1_score

        tokens = outputs if isinstance(outputs, TokenSummary) else self.summary(outputs, batch)
        counted = tokens.counted.bool()
        found, wanted = tokens.found[counted], tokens.wanted[counted]
        correct = 100.0 * float((found == wanted).double().mean()) if len(wanted) else 0.0
        f1 = (
            f1_score(wanted.numpy(), found.numpy(), average="macro", zero_division=0.0)
            if len(wanted)
            else 0.0
        )
        return {
            "accuracy": correct,
            "error": 100.0 - correct,
            "f1": 100.0 * float(f1),
            "cross_entropy": float(tokens.nats[counted].double().sum()) / max(1, len(wanted)),
            **self.own_metrics(found, wanted),
        }


class LanguageModelTask(ReadyTask):
    """The next token at every position: cross-entropy, perplexity.

    The network gives `(N, tokens, vocabulary)`; the target at a position is the token after it, -100 where there is
    none or it does not count: `make_data((ids[:, :-1], ids[:, 1:]))`. Metrics of your own are given flat what
    counts: the token found and the one wanted, `(tokens,)` each.
    """

    outputs = "token_logits"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, averaged over the tokens that count."""
        return token_loss(main_output(self, outputs), batch.targets)

    def summary(self, outputs: Any, batch: Batch) -> TokenSummary:
        """What is kept of the outputs for a batch."""
        return summarise(main_output(self, outputs), batch.targets)

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the targets of a split, given outputs of the network; empty when nothing is."""
        return _problem(targets, main_output(self, outputs))

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`perplexity`, `cross_entropy` in nats and `bits` per token, and `accuracy` in percent."""
        tokens = outputs if isinstance(outputs, TokenSummary) else self.summary(outputs, batch)
        counted = tokens.counted.bool()
        found, wanted = tokens.found[counted], tokens.wanted[counted]
        nats = float(tokens.nats[counted].double().sum()) / max(1, len(wanted))
        return {
            "perplexity": float(np.exp(min(nats, 700.0))),  # finite, however bad a candidate is
            "cross_entropy": nats,
            "bits": nats / math.log(2),
            "accuracy": 100.0 * float((found == wanted).double().mean()) if len(wanted) else 0.0,
            **self.own_metrics(found, wanted),
        }
