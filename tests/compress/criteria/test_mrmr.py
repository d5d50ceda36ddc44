"""Units are kept for what they say about the label, and dropped where others say it, too."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from evidence import CrossEntropy, Squares, free_groups
from sklearn.metrics import mutual_info_score
from torch import nn

from autoprune.compress.criteria import Evidence, score
from autoprune.compress.criteria.mrmr import EXAMPLES, information, redundancy, selected
from autoprune.compress.prune import Prune
from autoprune.errors import TaskError
from autoprune.space import Options
from autoprune.task import ArraySplit, Batch, Data

BOTH = Options(("l1", "mrmr"), "l1")


def with_copies() -> nn.Module:
    """Ten hidden neurons, of which 1, 4 and 7 are copies of 0, 3 and 6, up to their size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
    with torch.no_grad():
        for copy, original, size in ((1, 0, 1.0), (4, 3, 2.5), (7, 6, 0.5)):
            model[0].weight[copy], model[0].bias[copy] = (
                size * model[0].weight[original],
                size * model[0].bias[original],
            )
    return model


def labelled(count: int = 512, width: int = 6) -> list[Batch]:
    """Labels that follow from the inputs by a network's guess."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 4))
    x = torch.randn(count, width)
    return [Batch(part, teacher(part).argmax(1)) for part in x.split(16)]


def scored(model, batches, task=None):
    groups = list(free_groups(model, batches[0].inputs).values())
    return score("mrmr", Evidence(model, task or CrossEntropy(), batches, groups))


def test_of_neurons_that_are_copies_one_of_each_pair_goes_first():
    first = scored(with_copies(), labelled())["0"].argsort()[:3].tolist()
    assert {neuron // 3 for neuron in first} == {0, 1, 2} and set(first) <= {0, 1, 3, 4, 6, 7}


def test_a_neuron_that_is_the_same_for_all_examples_goes_first():
    model = with_copies()
    with torch.no_grad():
        model[0].bias[8] = -100.0
        model[0].weight[9], model[0].bias[9] = 0.0, 3.0
    assert set(scored(model, labelled())["0"].argsort()[:2].tolist()) == {8, 9}


def test_a_layer_that_is_the_same_for_all_examples_is_scored_by_l1():
    model = with_copies()
    with torch.no_grad():
        model[0].bias[:] = -100.0
    batches = labelled()
    seen = Evidence(model, CrossEntropy(), batches, list(free_groups(model, batches[0].inputs).values()))
    assert torch.equal(score("mrmr", seen)["0"], score("l1", seen)["0"])
    assert seen.notes == {"by_l1": {"0": "it is the same for all examples"}}


def test_the_neuron_that_knows_the_label_stays():
    model, batches = with_copies(), labelled()
    batches = [Batch(b.inputs, (torch.relu(model[0](b.inputs))[:, 5] > 0.3).long()) for b in batches]
    assert scored(model, batches)["0"].argmax() == 5


def test_real_targets_are_put_in_bins():
    model, batches = with_copies(), labelled()
    batches = [Batch(b.inputs, torch.relu(model[0](b.inputs))[:, 5:6].detach()) for b in batches]
    assert scored(model, batches, Squares())["0"].argmax() == 5


def test_information_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, 300)
    bins = np.stack([draw.integers(0, 8, 300), labels, (labels + draw.integers(0, 2, 300)) % 8], 1)
    expected = [mutual_info_score(column, labels) for column in bins.T]
    assert np.allclose(information(bins, labels), expected, atol=1e-9)


def test_redundancy_is_that_of_normal_variables():
    draw = np.random.default_rng(0)
    one = draw.normal(size=4000)
    values = np.stack([one, 0.6 * one + 0.8 * draw.normal(size=4000), -2.0 * one], 1)
    found = redundancy(values)
    assert found[0, 1] == pytest.approx(-0.5 * np.log(1 - 0.36), abs=0.03)
    assert found[0, 2] == found[0, 0] > 6.0


def test_selection_is_greedy():
    relevance = np.array([1.0, 0.9, 0.5, 0.1])
    redundant = np.array(
        [[6.0, 0.8, 0.1, 0.0], [0.8, 6.0, 0.1, 0.0], [0.1, 0.1, 6.0, 0.0], [0.0, 0.0, 0.0, 6.0]]
    )
    assert selected(relevance, redundant).tolist() == [0, 2, 1, 3]


def test_no_more_examples_are_looked_at_than_it_says():
    seen = []
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    groups = list(free_groups(model, torch.zeros(1, 6)).values())
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    score("mrmr", Evidence(model, CrossEntropy(), labelled(EXAMPLES + 64), groups))
    assert sum(seen) == EXAMPLES


def test_wide_groups_cost_seconds():
    model = nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))
    batches = labelled()
    start = time.process_time()
    assert all(len(values) == 512 for values in scored(model, batches).values())
    assert time.process_time() - start < 10.0


def split(targets) -> Data:
    x = np.zeros((40, 3), np.float32)
    part = ArraySplit(x, targets)
    return Data(part, part, part)


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        (np.zeros((40, 8), np.int64), r"got targets of shape \(8,\) each"),
        (np.zeros((40, 4, 4), np.int64), r"got targets of shape \(4, 4\) each"),
        (np.zeros((40, 0), np.float32), r"got targets of shape \(0,\) each"),
        (np.ones(40, np.int64), "targets that differ, got 1 for each example"),
    ],
)
def test_data_without_a_label_are_refused_before_the_search(targets, why):
    with pytest.raises(TaskError, match=rf"space\.prune\.criterion: mrmr needs .*{why}; choose among l1, l2"):
        Prune(criterion=BOTH).check(None, split(targets))


@pytest.mark.parametrize("targets", [np.arange(40) % 3, np.linspace(0, 1, 40, dtype=np.float32)[:, None]])
def test_labels_and_real_numbers_are_fine(targets):
    Prune(criterion=BOTH).check(None, split(targets))


def test_other_criteria_ask_nothing_of_the_data():
    Prune().check(None, split(np.zeros((40, 8), np.int64)))
