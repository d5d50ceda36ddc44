"""Tiny Shakespeare: 1,115,394 characters of plays (Karpathy 2015), and a small character model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from autoprune.datasets import load_text
from autoprune.references import resolve
from autoprune.task import Data, LanguageModelTask, make_data
from autoprune.task.text import alphabet_of, characters

CharacterGPT = resolve("character_gpt.py:CharacterGPT", folder=Path(__file__).parent)


class TinyShakespeare(LanguageModelTask):
    """The next of 65 characters: the first 90 % of the text to train, 5 % to validate, the last 5 % to test.

    Args:
        length: characters that are seen at once.
    """

    def __init__(self, length: int = 64) -> None:
        super().__init__(
            partial(CharacterGPT, vocabulary=65, length=length),
            partial(tinyshakespeare_data, length),
            architecture={"depth": [1, 2, 3, 4], "mlp_ratio": [1.0, 2.0, 4.0]},
        )


def tinyshakespeare_data(length: int = 64) -> Data:
    """The three splits, in windows of `length` characters."""
    text = load_text("tinyshakespeare.txt")
    alphabet = alphabet_of(text)
    first, second = int(0.9 * len(text)), int(0.95 * len(text))
    train, val, test = (
        characters(part, length, alphabet) for part in (text[:first], text[first:second], text[second:])
    )
    return make_data(train, val, test)
