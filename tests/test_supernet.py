"""Shared weights: sub-networks are what the task makes, with the first and most important units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ModelError, RunFolderError, TaskError
from autoprune.references import resolve
from autoprune.sandwich import Sandwich, memory_bytes, needed_bytes, train_supernet
from autoprune.space import Options
from autoprune.supernet import Supernet, sorted_by_importance
from autoprune.task import ClassificationTask, make_data
from autoprune.train import TrainSettings

small_cnn, resnet = resolve("small_cnn.py:small_cnn"), resolve("resnet.py:resnet")
WIDTH = {"width": Options((0.5, 1.0), 1.0)}
SETTINGS = TrainSettings(batch_size=16, learning_rate=0.05)


def a_task(make: Any, shape: tuple[int, ...] = (1, 8, 8), classes: int = 3) -> ClassificationTask:
    """Noise that is a little brighter for each class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 90)
    x = rng.normal(y.reshape(-1, *[1] * len(shape)), 1.0, (90, *shape)).astype(np.float32)
    return ClassificationTask(make, make_data((x, y)))


def cnn(**arguments: Any) -> nn.Module:
    return small_cnn(**{"channels": 8, "classes": 3, **arguments})


def cnn_of(width: float = 1.0, depth: int = 2, kernel_size: int = 3) -> nn.Module:
    return cnn(width=width, depth=depth, kernel_size=kernel_size)


EXAMPLE = torch.rand(1, 1, 8, 8)
OPTIONS = {**WIDTH, "depth": Options((1, 2), 2), "kernel_size": Options((3, 5), 3)}


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(a_task(cnn_of), OPTIONS, EXAMPLE)


def test_largest_and_smallest_are_found_by_their_parameters(supernet: Supernet) -> None:
    assert supernet.largest == {"width": 1.0, "depth": 2, "kernel_size": 5}
    assert supernet.smallest == {"width": 0.5, "depth": 1, "kernel_size": 3}


@pytest.mark.parametrize("architecture", [{}, {"width": 0.5}, {"depth": 1}, {"width": 0.5, "kernel_size": 5}])
def test_a_filled_network_computes_what_the_supernet_does(
    architecture: dict[str, Any], supernet: Supernet
) -> None:
    model = cnn_of(**architecture).eval()
    supernet.fill(model, architecture)
    assert torch.allclose(model(EXAMPLE), supernet.eval().run(architecture, EXAMPLE), atol=1e-6)


def test_gradients_reach_the_part_that_a_network_uses_and_no_other(supernet: Supernet) -> None:
    supernet.run({"width": 0.5, "depth": 2, "kernel_size": 3}, torch.rand(4, 1, 8, 8)).sum().backward()
    gradient = supernet.tensor("stages/0/0/0/weight").grad
    assert gradient is not None and gradient[:4, :, 1:4, 1:4].abs().sum() > 0
    gradient[:4, :, 1:4, 1:4] = 0
    assert gradient.abs().sum() == 0


def test_a_head_behind_another_stage_has_weights_of_its_own(supernet: Supernet) -> None:
    names = [name for name, _ in supernet.named_parameters() if name.startswith("head/weight")]
    assert sorted(names) == ["head/weight", "head/weight@stages/0/1/0"]


def test_the_reference_is_among_the_sub_networks(supernet: Supernet) -> None:
    reference = cnn_of().eval()
    supernet.begin_with(reference)
    model = cnn_of().eval()
    supernet.fill(model, {})
    assert torch.allclose(model(EXAMPLE), reference(EXAMPLE), atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), [(cnn_of, (1, 8, 8)), (resnet, (3, 16, 16))])
def test_sorting_changes_nothing_but_the_order(make: Any, shape: tuple[int, ...]) -> None:
    model, example = make().eval(), torch.rand(1, *shape)
    ordered = sorted_by_importance(model, a_task(make, shape), example)
    assert torch.allclose(ordered(example), model(example), rtol=1e-3, atol=1e-4)
    sizes = next(m for m in ordered.modules() if isinstance(m, nn.Conv2d)).weight.abs().flatten(1).sum(1)
    if make is cnn_of:  # alone in its group; those of a residual network are sorted by all that write it
        assert torch.equal(sizes, sizes.sort(descending=True).values)


def test_attention_is_sorted_too() -> None:
    def vit() -> nn.Module:
        return resolve("vit.py:ViT")(size=8, depth=1, width=8, heads=2, head_dim=4)

    model = vit().eval()
    ordered = sorted_by_importance(model, a_task(vit), EXAMPLE)
    assert torch.allclose(ordered(EXAMPLE), model(EXAMPLE), atol=1e-4)
    assert not torch.equal(ordered.blocks[0].fc1.weight, model.blocks[0].fc1.weight)  # type: ignore[union-attr,index]


def test_draws_skip_what_the_task_cannot_build() -> None:
    def picky(width: float = 1.0, depth: int = 2) -> nn.Module:
        if (width, depth) == (0.5, 1):
            raise ValueError("too small")
        return cnn(width=width, depth=depth)

    made = Supernet(a_task(picky), {**WIDTH, "depth": Options((1, 2), 2)}, EXAMPLE)
    drawn = [made.draw(np.random.default_rng(seed)) for seed in range(20)]
    assert {"width": 0.5, "depth": 1} not in drawn
    assert made.smallest == {"width": 1.0, "depth": 1}


def test_shapes_that_cannot_be_shared_are_named() -> None:
    def crossed(way: str = "wide") -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6 if way == "wide" else 7), nn.ReLU())

    def turned(way: str = "wide") -> nn.Module:
        kernel = (1, 5) if way == "wide" else (3, 1)
        return nn.Sequential(nn.Conv2d(1, 3, kernel), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert Supernet(a_task(crossed), {"way": Options(("wide", "narrow"), "wide")}, EXAMPLE).largest == {
        "way": "narrow"
    }
    with pytest.raises(ModelError, match=r"way='wide'.*way='tall'.*neither of which holds the other"):
        Supernet(a_task(turned), {"way": Options(("wide", "tall"), "wide")}, EXAMPLE)


def test_a_network_that_cannot_be_built_is_named_with_its_arguments() -> None:
    def broken(width: float = 1.0) -> nn.Module:
        if width < 1:
            raise ValueError("no")
        return cnn(width=width)

    with pytest.raises(ModelError, match=r"model\(width=0.5\) raises ValueError"):
        Supernet(a_task(broken), WIDTH, EXAMPLE)


def test_it_is_read_back_as_it_was_written(supernet: Supernet) -> None:
    other = Supernet(a_task(cnn_of), OPTIONS, EXAMPLE)
    other.read(supernet.to_bytes())
    assert all(
        torch.equal(one, two) for one, two in zip(supernet.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_damaged_weights_are_refused(content: bytes | None, supernet: Supernet) -> None:
    content = Supernet(a_task(cnn_of), WIDTH, EXAMPLE).to_bytes() if content is None else content
    with pytest.raises(RunFolderError, match="the supernet is damaged, or of another space"):
        supernet.read(content)


def test_training_teaches_the_smallest_too(supernet: Supernet) -> None:
    task = supernet._task
    data, losses = task.data(), []
    for _ in range(2):
        batch = next(iter(data.train.batches(54)))
        supernet.train()  # with the statistics of the batch: a sub-network has none of its own
        losses.append(task.loss(supernet.run(supernet.smallest, batch.inputs), batch).item())
        train_supernet(supernet, task, data, epochs=8, networks=1, settings=SETTINGS, seed=0)
    assert losses[1] < 0.8 * losses[0]


def test_a_step_costs_the_largest_its_labels_and_the_others_their_distance(supernet: Supernet) -> None:
    task = supernet._task
    batch = next(iter(task.data().train.batches(16)))
    outputs = supernet(batch.inputs)
    own = task.loss(outputs, batch)
    assert Sandwich(supernet, task, 2, 0)(outputs, batch, own) > own


def test_what_does_not_fit_the_memory_is_refused(supernet: Supernet) -> None:
    settings = TrainSettings(batch_size=10**12)
    assert needed_bytes(supernet, EXAMPLE, 2, SETTINGS) < memory_bytes()
    with pytest.raises(TaskError, match=r"takes about .* GiB.*lower train.batch_size"):
        task = supernet._task
        train_supernet(supernet, task, task.data(), epochs=1, networks=2, settings=settings, seed=0)


def test_alternatives_and_depths_of_cells_share_what_they_have_in_common() -> None:
    CellCNN = resolve("cell_cnn.py:CellCNN")  # noqa: N806

    def made(edge01: str = "conv3", edge23: str = "conv3", depth: int = 1) -> nn.Module:
        network: nn.Module = CellCNN(edge01=edge01, edge23=edge23, depth=depth, channels=4, classes=3)
        return network

    options = {
        "edge01": Options(("none", "conv1", "conv3"), "conv3"),
        "edge23": Options(("skip", "conv3"), "conv3"),
        "depth": Options((1, 2), 1),
    }
    supernet = Supernet(a_task(made), options, EXAMPLE).eval()
    names = {name for name, _ in supernet.named_parameters()}
    assert {
        "stages/0/0/0/edges/from0to1/conv1/0/weight",
        "stages/0/0/1/edges/from0to1/conv3/0/weight",
    } <= names
    for seed in range(8):
        supernet.run(supernet.draw(np.random.default_rng(seed)), torch.rand(2, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in supernet.parameters())
