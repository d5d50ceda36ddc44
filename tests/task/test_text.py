"""Text as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.errors import TaskError
from autoprune.task.text import Vocabulary, alphabet_of, characters, words_of


def test_each_character_is_followed_by_the_next() -> None:
    x, y = characters("abcabcab", 3, "abc")
    assert x.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert y.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert x.dtype == y.dtype == np.int64


def test_an_alphabet_is_what_occurs() -> None:
    assert alphabet_of("hello\n") == "\nehlo"


@pytest.mark.parametrize(("text", "said"), [("abd", "'d' is not in the alphabet"), ("ab", "too few")])
def test_a_text_that_does_not_fit_is_named(text: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        characters(text, 2, "abc")


def test_words_are_lower_case_with_marks_apart() -> None:
    assert words_of("I can't pay £5, ÄRGER!") == ["i", "can't", "pay", "£", "5", ",", "ärger", "!"]


def test_frequent_words_have_small_numbers_whatever_the_order() -> None:
    texts = ["my card", "my card is lost", "my"]
    vocabulary = Vocabulary(texts, 4)
    assert vocabulary.words == Vocabulary(texts[::-1], 4).words == ["my", "card"]
    assert len(vocabulary) == 4


def test_texts_become_ids_and_mask_of_one_length() -> None:
    coded = Vocabulary(["my card"], 10).encode(["Card of my own", "my", ""], 3)
    assert coded["ids"].tolist() == [[2, 1, 3], [3, 0, 0], [1, 0, 0]]
    assert coded["mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
