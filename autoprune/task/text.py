"""Text as arrays: characters for a small language model, words for a small encoder.

For the tokenizers of published models use their own library; what they give (ids and a mask) is data like any other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.errors import TaskError
from autoprune.task.inputs import Array

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_")
PADDING, UNKNOWN = 0, 1


def alphabet_of(text: str) -> str:
    """The characters that occur, sorted: the id of a character is its place."""
    return "".join(sorted(set(text)))


def characters(text: str, length: int, alphabet: str) -> tuple[Array, Array]:
    """Ids of a text in windows, and for each place the id of the character after it.

    Args:
        text: is cut into windows one after the other; a rest shorter than one is left out.
        length: characters in a window.
        alphabet: the known characters, as `alphabet_of` gives them.

    Returns:
        inputs and targets, both `(windows, length)`, `int64`.

    Raises:
        TaskError: the text is too short for one window, or has a character that is not in the alphabet.
    """
    if unknown := set(text) - set(alphabet):
        raise TaskError(f"text: the character {min(unknown)!r} is not in the alphabet of the training text")
    windows = (len(text) - 1) // length
    if windows < 1:
        raise TaskError(f"text: {len(text)} characters are too few for a window of {length} and its next one")
    places = {character: place for place, character in enumerate(alphabet)}
    ids = np.fromiter((places[c] for c in text[: windows * length + 1]), np.int64, windows * length + 1)
    return ids[:-1].reshape(windows, length), ids[1:].reshape(windows, length)


def words_of(text: str) -> list[str]:
    """Words, numbers and punctuation marks in lower case: `["can't", "i", "?"]`."""
    return WORD.findall(text.lower())


class Vocabulary:
    """The most frequent words of the training texts by number; 0 is padding, 1 any other word.

    Args:
        texts: the training texts.
        size: numbers in all, with those two; fewer where there are fewer words.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        counts = Counter(word for text in texts for word in words_of(text))
        # Equally frequent words in the order of the alphabet: the same texts in any order, the same numbers.
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self.words = ranked[: max(0, size - 2)]
        self._numbers = {word: number for number, word in enumerate(self.words, UNKNOWN + 1)}

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, texts: Sequence[str], length: int) -> dict[str, Array]:
        """`ids` and `mask`, both `(texts, length)` and `int64`: longer texts are cut, shorter ones padded with 0.

        The mask is 1 where there is a word. A text without any word counts as one unknown word.
        """
        ids = np.full((len(texts), length), PADDING, np.int64)
        for row, text in zip(ids, texts, strict=True):
            numbers = [self._numbers.get(word, UNKNOWN) for word in words_of(text)[:length]] or [UNKNOWN]
            row[: len(numbers)] = numbers
        return {"ids": ids, "mask": (ids != PADDING).astype(np.int64)}
