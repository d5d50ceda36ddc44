"""Minimum redundancy, maximum relevance: units that say much about the label, and not what others say already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.compress.criteria.activation import of_units, seen
from autoprune.compress.criteria.reads import Place, Reads
from autoprune.compress.criteria.units import Evidence, Score, Unscored
from autoprune.errors import TaskError
from autoprune.structure import Group
from autoprune.task import Batch, Data
from autoprune.tensors import Inputs, batch_size, rows

Floats = NDArray[np.float64]

EXAMPLES = 512
BINS = 8
# Of units that are copies of each other but for rounding: seven nats, more than any of the usual labels holds.
CLOSEST = 1.0 - 1e-6


def mrmr(evidence: Evidence) -> Score:
    """Units in the order in which they would be selected as features of the label; the first scores highest.

    A unit's feature is its mean activation over an example, where it is read. Relevance is its mutual information
    with the label, over eight bins of equal count; redundancy the mean mutual information with the units selected
    before, as of two normal variables of that correlation. The next unit is the one with the largest difference of
    the two (Peng, Long & Ding 2005, https://doi.org/10.1109/TPAMI.2005.159, eq. 6 and 7); units that are the same
    for all examples come last.

    It costs a pass over at most 512 examples, one by one, so that it need not be known where the layers of a network
    keep the axis of examples; and the square of a group's units.
    """
    features, labels = _observed(evidence.model, evidence.batches)
    bins = (
        _binned(labels[:, None])[:, 0]
        if labels.dtype.kind == "f"
        else np.unique(labels, return_inverse=True)[1]
    )

    def scores(group: Group) -> torch.Tensor:
        places = [of_units(part, features[part.tensor, part.axis]) for part in seen(group, features)]
        values = np.mean([_standardized(place.double().numpy()) for place in places], axis=0)
        varies = values.std(0) > 1e-6 * values.std()
        live, dead = np.flatnonzero(varies), np.flatnonzero(~varies)
        if not len(live):
            raise Unscored("it is the same for all examples")
        first = selected(information(_binned(values[:, live]), bins), redundancy(values[:, live]))
        order = torch.from_numpy(np.concatenate([live[first], dead]))
        return torch.empty(len(order)).index_put((order,), torch.arange(len(order), 0.0, -1.0))

    return scores


def refusal(data: Data) -> str:
    """Why the criterion cannot work with these data; empty where it can."""
    try:
        labels = [label for _, label in islice(_examples(data.train.batches(64)), EXAMPLES)]
    except TaskError as error:
        return str(error)
    return "" if len(set(labels)) > 1 else f"mrmr needs targets that differ, got {labels[0]} for each example"


def _labels(batch: Batch) -> NDArray[Any]:
    """One number for each example: a class, or a real number."""
    targets = batch.targets
    if not isinstance(targets, torch.Tensor):
        raise TaskError(
            f"mrmr needs one number as the target of each example, got targets of type {type(targets).__name__}"
        )
    if tuple(targets.shape) not in ((len(targets),), (len(targets), 1)):
        raise TaskError(
            f"mrmr needs one number as the target of each example, got targets of shape {tuple(targets.shape[1:])} each"
        )
    return (
        targets.reshape(-1).double().numpy() if targets.is_floating_point() else targets.reshape(-1).numpy()
    )


def _observed(model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[Place, torch.Tensor], NDArray[Any]]:
    """What is read of each example, shape (examples, blocks, features) by place, and the labels (examples,)."""
    reads = Reads(model, torch.Tensor.float)
    found: list[dict[Place, torch.Tensor]] = []
    labels: list[Any] = []
    for inputs, label in islice(_examples(batches), EXAMPLES):
        reads.watch(inputs)
        found.append(reads.means())
        labels.append(label)
    places = {place: torch.zeros_like(value) for means in found for place, value in means.items()}
    # What an example's path leaves out (an expert that it is not sent to) is as good as zero for it.
    stacked = {
        place: torch.stack([means.get(place, zero) for means in found]) for place, zero in places.items()
    }
    return stacked, np.array(labels)


def _examples(batches: Iterable[Batch]) -> Iterator[tuple[Inputs, Any]]:
    for batch in batches:
        labels = _labels(batch)
        for i in range(batch_size(batch.inputs)):
            yield rows(batch.inputs, slice(i, i + 1)), labels[i]


def _standardized(values: Floats) -> Floats:
    """Columns without their means, on the scale of the whole: no layer that reads a group outvotes the others."""
    centred = values - values.mean(0)
    scaled: Floats = centred / max(float(centred.std()), 1e-12)
    return scaled


def _binned(values: Floats) -> NDArray[np.int64]:
    """The bin of each value in its column, of `BINS` that hold about as many each; equal values share one."""
    edges = np.quantile(values, np.arange(1, BINS) / BINS, axis=0)
    bins: NDArray[np.int64] = (values[:, None] > edges[None]).sum(1)
    return bins


def information(bins: NDArray[np.int64], labels: NDArray[np.int64]) -> Floats:
    """Mutual information with the label in nats, shape (units,).

    As `sklearn.metrics.mutual_info_score` of each column, which takes a hundred times as long for all of them.

    Args:
        bins: whole numbers from 0, shape (examples, units).
        labels: whole numbers from 0, shape (examples,).
    """
    from scipy.stats import entropy  # a second of every worker's start, for a criterion that few searches use

    in_bin, of_label = np.eye(bins.max() + 1)[bins], np.eye(labels.max() + 1)[labels]
    joint = np.einsum("nub,nl->ubl", in_bin, of_label, optimize=True)
    both: Floats = entropy(joint.reshape(len(joint), -1), axis=1)
    found: Floats = entropy(joint.sum(2), axis=1) + entropy(joint.sum(1), axis=1) - both
    return np.maximum(found, 0.0)


def redundancy(values: Floats) -> Floats:
    """Mutual information of each two columns, none of them constant, in nats: -½ ln(1 - ρ²), shape (units, units)."""
    centred = values - values.mean(0)
    turned = centred / np.linalg.norm(centred, axis=0)
    found: Floats = -0.5 * np.log1p(-np.minimum((turned.T @ turned) ** 2, CLOSEST))
    return found


def selected(relevance: Floats, redundant: Floats) -> NDArray[np.int64]:
    """All units in the order of their selection: each time the one whose relevance is most above its redundancy."""
    left = np.ones(len(relevance), dtype=bool)
    shared, order = np.zeros(len(relevance)), np.zeros(len(relevance), np.int64)
    for turn in range(len(relevance)):
        worth = relevance - shared / max(1, turn)
        order[turn] = chosen = int(np.argmax(np.where(left, worth, -np.inf)))
        left[chosen] = False
        shared += redundant[chosen]
    return order
