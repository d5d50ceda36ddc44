"""Banking77: 13,083 questions to a bank in 77 intents (Casanueva et al. 2020), and a small text encoder."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path

import numpy as np

from autoprune.datasets import load_text
from autoprune.references import resolve
from autoprune.task import ClassificationTask, Data, make_data
from autoprune.task.text import Vocabulary

TextEncoder = resolve("text_encoder.py:TextEncoder", folder=Path(__file__).parent)


class Banking77(ClassificationTask):
    """77 intents: 9,003 questions to train, 1,000 to validate, the official 3,080 to test.

    Args:
        words: token ids of the vocabulary, which is built from the training texts.
        length: words of a question that are read.
    """

    def __init__(self, words: int = 2000, length: int = 32) -> None:
        super().__init__(
            partial(TextEncoder, vocabulary=words, length=length, classes=77),
            partial(banking77_data, words, length),
            architecture={"depth": [1, 2, 3, 4], "mlp_ratio": [1.0, 2.0, 4.0]},
        )


def banking77_data(words: int = 2000, length: int = 32) -> Data:
    """The three splits: word ids and mask, and the number of the intent in the order of the alphabet."""
    train_texts, train_intents = _rows("banking77_train.csv")
    test_texts, test_intents = _rows("banking77_test.csv")
    vocabulary = Vocabulary(train_texts, words)
    intents = sorted(set(train_intents))
    return make_data(
        (vocabulary.encode(train_texts, length), np.searchsorted(intents, train_intents)),
        test=(vocabulary.encode(test_texts, length), np.searchsorted(intents, test_intents)),
        shares=(0.1, 0.0),
    )


def _rows(file: str) -> tuple[list[str], list[str]]:
    rows = list(csv.DictReader(io.StringIO(load_text(file), newline="")))
    return [row["text"] for row in rows], [row["category"] for row in rows]
