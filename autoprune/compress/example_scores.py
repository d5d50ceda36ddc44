"""How much a training example has to teach: one function for each method, `(split, context) -> scores`.

`el2n`, `forgetting` and `margin` say how hard an example is; `moderate`, `herding` and `random` how much it should be
kept. A score is compared within its class only, so that every class keeps the same share.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.compress.technique import Context
from autoprune.stretch import stretch
from autoprune.structure.parametrize import make_model
from autoprune.task import ArraySplit, Batch, main_output
from autoprune.tensors import call
from autoprune.train import train

Scores = NDArray[np.float64]
Score = Callable[[ArraySplit, Context], Scores]

EARLY_NETWORKS, EARLY_EPOCHS = 3, 1.0
FORGETTING_EPOCHS = 6.0
FEATURES = 128
BATCH = 256


def el2n(split: ArraySplit, context: Context) -> Scores:
    """Hardness: the length of softmax minus one-hot label, early in training (Paul et al. 2021,
    https://arxiv.org/abs/2107.07075, definition 2.4).

    The mean over three networks, each trained from the task's own start for one epoch; the paper takes ten, at a
    tenth of a long training. It costs three epochs on the uncompressed network.
    """
    labels = torch.from_numpy(labels_of(split))
    total = np.zeros(len(split))
    for network in _early_networks(split, context):
        wrong = _outputs(network, split, context).softmax(1)
        wrong[torch.arange(len(labels)), labels] -= 1.0
        total += wrong.norm(dim=1).double().numpy()
    return total / EARLY_NETWORKS


def margin(split: ArraySplit, context: Context) -> Scores:
    """Hardness: by how much the reference finds the likeliest other class likelier than the right one (Coleman et al.
    2020, https://arxiv.org/abs/1906.11829, with the label known). It costs one pass over the examples.
    """
    return _lead_of_others(_outputs(context.reference, split, context), labels_of(split))


def forgetting(split: ArraySplit, context: Context) -> Scores:
    """Hardness: how often an example that was right is wrong when it is next shown (Toneva et al. 2019,
    https://arxiv.org/abs/1812.05159, algorithm 1), during six epochs of one training of the uncompressed network.

    One that was never right counts as forgotten each time, as in the paper.
    """
    shown, labels = _Shown(split), labels_of(split)
    right, ever = np.zeros(len(split), bool), np.zeros(len(split), bool)
    events = np.zeros(len(split))

    def look(outputs: Any, _batch: Batch, value: torch.Tensor) -> torch.Tensor:
        now = main_output(context.task, outputs).detach().argmax(1).cpu().numpy() == labels[shown.last]
        events[shown.last] += right[shown.last] & ~now
        right[shown.last] = now
        ever[shown.last] |= now
        return value

    settings = replace(context.settings, max_seconds=None, compile=False)
    model = _fresh(context, context.seed)
    train(
        model, context.task, shown, epochs=FORGETTING_EPOCHS, settings=settings, loss=look, seed=context.seed
    )
    events[~ever] = FORGETTING_EPOCHS
    return events


def moderate(split: ArraySplit, context: Context) -> Scores:
    """How typical the distance of an example to the centre of its class is: those near the median distance stay
    (Xia et al. 2023, "Moderate coreset", https://openreview.net/forum?id=7D5EECbOaf9). It costs one pass.
    """
    features, labels = _features(split, context), labels_of(split)
    scores = np.zeros(len(split))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distances = np.linalg.norm(features[members] - features[members].mean(0), axis=1)
        scores[members] = -np.abs(distances - np.median(distances))
    return scores


def herding(split: ArraySplit, context: Context) -> Scores:
    """How early an example is picked when the mean of the picked follows the mean of its class (Welling 2009,
    "Herding dynamical weights to learn"). It costs one pass, and the square of the examples of a class.
    """
    features, labels = _features(split, context), labels_of(split)
    scores = np.zeros(len(split))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        scores[members[_herded(features[members])]] = -np.arange(len(members))
    return scores


def random(split: ArraySplit, context: Context) -> Scores:
    """A number drawn for each example: the baseline that a method has to beat."""
    return np.random.default_rng(context.seed).random(len(split))


BUILT_IN: dict[str, Score] = {
    "random": random,
    "el2n": el2n,
    "forgetting": forgetting,
    "margin": margin,
    "moderate": moderate,
    "herding": herding,
}
OF_HARDNESS = ("el2n", "forgetting", "margin")


def labels_of(split: ArraySplit) -> NDArray[np.int64]:
    """The class of each example."""
    return np.asarray(split.targets, np.int64)


class _Shown:
    """A split that says which examples it gave out last; without augmentation, so that they are the same each time."""

    def __init__(self, split: ArraySplit) -> None:
        self._split = split
        self.last: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._split)

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches in order, or shuffled by the seed `shuffle`."""
        order = np.arange(len(self))
        if shuffle is not None:
            order = np.random.default_rng(shuffle).permutation(order)
        for start in range(0, len(order), batch_size):
            self.last = order[start : start + batch_size]
            yield from at(self._split, self.last).batches(batch_size)


def at(split: ArraySplit, places: NDArray[np.int64]) -> ArraySplit:
    """The examples at these places of a split; their arrays are shared."""
    part = copy.copy(split)
    part.rows = split.rows[places]
    return part


def _early_networks(split: ArraySplit, context: Context) -> Iterator[nn.Module]:
    settings = replace(context.settings, max_seconds=None, compile=False)
    for seed in range(context.seed, context.seed + EARLY_NETWORKS):
        model = _fresh(context, seed)
        data = replace(context.data, train=split)
        stretch(model, context.task, data, epochs=EARLY_EPOCHS, settings=settings, seed=seed)
        yield model.eval()


def _fresh(context: Context, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_model(context.task, {})


@torch.no_grad()
def _outputs(model: nn.Module, split: ArraySplit, context: Context) -> torch.Tensor:
    """Logits (N, C) of all examples, in order and without augmentation."""
    parts = [main_output(context.task, call(model, batch.inputs)) for batch in split.batches(BATCH)]
    return torch.cat(parts).float()


def _lead_of_others(logits: torch.Tensor, labels: NDArray[np.int64]) -> Scores:
    places = torch.arange(len(labels)), torch.from_numpy(labels)
    shares = logits.double().softmax(1)
    own = shares[places].clone()
    shares[places] = -1.0
    lead: Scores = (shares.amax(1) - own).numpy()
    return lead


@torch.no_grad()
def _features(split: ArraySplit, context: Context) -> NDArray[np.float32]:
    """What the last linear layer of the reference reads of each example, shape (N, at most `FEATURES`).

    Longer ones are projected at random, which keeps distances and means; without such a layer logits take their place.
    """
    seen: list[torch.Tensor] = []
    layers = [module for module in context.reference.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs)) for layer in layers]
    parts: list[torch.Tensor] = []
    projection: torch.Tensor | None = None
    try:
        for batch in split.batches(BATCH):
            seen.clear()
            logits = main_output(context.task, call(context.reference, batch.inputs))
            fits = bool(seen) and len(seen[-1]) == len(logits)
            values = (seen[-1] if fits else logits).flatten(1).float()
            if projection is None:
                projection = _projection(values.shape[1], context.seed)
            parts.append(values @ projection)
    finally:
        for hook in hooks:
            hook.remove()
    features: NDArray[np.float32] = torch.cat(parts).numpy()
    return features


def _projection(width: int, seed: int) -> torch.Tensor:
    """Johnson & Lindenstrauss's: Gaussian, of length one on average. Short features stay as they are."""
    if width <= FEATURES:
        return torch.eye(width)
    drawn = torch.randn(width, FEATURES, generator=torch.Generator().manual_seed(seed))
    return drawn / math.sqrt(FEATURES)


def _herded(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """All rows in the order in which herding picks them."""
    centred = features - features.mean(0)
    picked, debt = np.zeros(len(features), np.int64), np.zeros(len(features), np.float64)
    for turn in range(len(features)):
        chosen = int(np.argmax(debt if turn else -np.linalg.norm(centred, axis=1)))
        picked[turn] = chosen
        debt -= centred @ centred[chosen]
        debt[chosen] = -np.inf
    return picked
