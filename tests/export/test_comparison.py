"""What is compared depends on what outputs mean, and padding is not compared at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoprune.errors import ParityError
from autoprune.export.comparison import Comparison, in_form
from autoprune.task import Batch

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])


def compared(kind: str | None, expected: Any, found: Any, batch: Batch) -> dict[str, Any]:
    comparison = Comparison(SimpleNamespace(outputs=kind), "values")  # type: ignore[arg-type]
    comparison.add(expected, found, batch)
    return comparison.result()


def test_classes_agree_or_not() -> None:
    batch = Batch(torch.zeros(2), torch.tensor([0, 1]))
    assert compared("logits", SCORES, SCORES * 2, batch)["agreement"] == 100.0
    assert compared("logits", SCORES, SCORES.flip(1), batch)["agreement"] == 50.0


def test_scores_that_are_as_good_as_each_other_are_a_tie() -> None:
    close = torch.tensor([[1.0, 0.999, -2.0]])
    batch = Batch(torch.zeros(1), torch.tensor([0]))
    assert compared("logits", close, close[:, [1, 0, 2]], batch)["agreement"] == 100.0
    apart = torch.tensor([[1.0, 0.99, -2.0]])
    assert compared("logits", apart, apart[:, [1, 0, 2]], batch)["agreement"] == 0.0


def test_values_have_an_error_and_no_agreement() -> None:
    found = compared("values", SCORES, SCORES * 1.1, Batch(torch.zeros(2), torch.zeros(2)))
    assert found["relative_error"] == pytest.approx(0.1) and "agreement" not in found


def test_labels_agree_one_by_one() -> None:
    batch = Batch(torch.zeros(1), torch.zeros(1, 4))
    expected, found = torch.tensor([[1.0, -1.0, 2.0, -2.0]]), torch.tensor([[1.0, 1.0, 2.0, -2.0]])
    assert compared("multi_label", expected, found, batch)["agreement"] == 75.0


def test_padding_is_not_compared() -> None:
    expected = torch.randn(2, 4, 3)
    found = expected.clone()
    found[:, 3] = 100.0
    mask = torch.tensor([[1, 1, 1, 0]] * 2)
    result = compared("token_logits", expected, found, Batch({"attention_mask": mask}, torch.zeros(2)))
    assert result["agreement"] == 100.0 and result["relative_error"] == 0.0


def test_positions_without_a_target_are_not_compared() -> None:
    expected = torch.randn(2, 4, 3)
    found = expected.clone()
    found[:, 3] = torch.tensor([9.0, 8.0, 7.0])
    expected[:, 3] = torch.tensor([7.0, 8.0, 9.0])
    targets = torch.tensor([[0, 1, 2, -100]] * 2)
    assert compared("token_logits", expected, found, Batch(torch.zeros(2), targets))["agreement"] == 100.0
    assert (
        compared("token_logits", expected, found, Batch(torch.zeros(2), targets.abs()))["agreement"] == 75.0
    )


def test_pixels_agree_where_they_count() -> None:
    expected, found = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    expected[:, 0], found[:, 0] = 1.0, 1.0
    found[:, 1, 0] = 5.0
    targets = torch.tensor([[[-100, 0], [1, 1]]])
    result = compared("segmentation", expected, found, Batch(torch.zeros(1), targets))
    assert result["agreement"] == pytest.approx(200 / 3)


def test_each_output_has_its_own_error() -> None:
    expected = {"logits": SCORES, "hidden": torch.ones(2, 5)}
    found = {"logits": SCORES, "hidden": torch.full((2, 5), 1.5)}
    result = compared("logits", expected, found, Batch(torch.zeros(2), torch.zeros(2)))
    assert result["output"] == "logits" and result["outputs"] == {"logits": 0.0, "hidden": 0.5}


def test_infinite_scores_on_both_sides_are_no_error() -> None:
    masked = torch.tensor([[1.0, -torch.inf]])
    assert (
        compared("values", masked, masked.clone(), Batch(torch.zeros(1), torch.zeros(1)))["relative_error"]
        == 0
    )


def test_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(ParityError, match="gives 2 tensors, not 1"):
        in_form({"logits": SCORES}, (SCORES, SCORES))
