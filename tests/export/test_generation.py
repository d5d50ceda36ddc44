"""Two readers of a language model continue texts alike, or are told apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from autoprune.export.generation import STEPS, generation_agreement, predicts_next
from autoprune.task import Batch

TASK: Any = SimpleNamespace(outputs="token_logits")
IDS = torch.arange(12).reshape(2, 6) % 7


class Bigram(nn.Module):
    """The scores of a token follow from the one before."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(7, 7)

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)


def next_tokens(ids: torch.Tensor) -> Batch:
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    return Batch(ids, targets)


def test_the_same_model_writes_the_same() -> None:
    assert generation_agreement(TASK, next_tokens(IDS), Bigram(0), Bigram(0)) == 100.0


def test_another_model_writes_something_else() -> None:
    found = generation_agreement(TASK, next_tokens(IDS), Bigram(0), Bigram(1))
    assert found is not None and found < 90.0


def test_one_step_that_differs_does_not_count_for_the_rest() -> None:
    calls: list[int] = []

    def once_wrong(ids: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return Bigram(0)(ids) * (-1 if len(calls) == 1 else 1)

    assert generation_agreement(TASK, next_tokens(IDS), Bigram(0), once_wrong) == 100 * (1 - 1 / STEPS)


def test_tasks_that_do_not_continue_texts_are_left_alone() -> None:
    tags = Batch(IDS, (IDS * 5 + 1) % 3)
    assert not predicts_next(TASK, tags)
    assert generation_agreement(TASK, tags, Bigram(0), Bigram(0)) is None
    assert not predicts_next(SimpleNamespace(outputs="logits"), next_tokens(IDS))  # type: ignore[arg-type]


def test_targets_may_be_the_tokens_themselves() -> None:
    assert predicts_next(TASK, Batch({"input_ids": IDS}, IDS.clone()))


def test_padded_examples_are_no_prompts() -> None:
    mask = torch.tensor([[1] * 6, [1] * 5 + [0]])

    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        assert len(inputs["input_ids"]) == 1
        return Bigram(0)(inputs["input_ids"])

    batch = Batch({"input_ids": IDS, "attention_mask": mask}, next_tokens(IDS).targets)
    assert generation_agreement(TASK, batch, run, run) == 100.0
    nobody = Batch({"input_ids": IDS, "attention_mask": mask * 0}, next_tokens(IDS).targets)
    assert generation_agreement(TASK, nobody, run, run) is None
