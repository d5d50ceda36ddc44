"""An artifact as the model of a task: pruned as it was, float again, with a head for another task, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import Untraceable, quantized, trained

import autoprune
from autoprune.deployed import ActivationQuantizer, QuantizedLayer, deploy
from autoprune.errors import ArtifactError, BadInput, TaskError, UnresolvedReference
from autoprune.export.artifact import Contents, write_artifact
from autoprune.structure import analyse
from autoprune.task import check_task, load_model, load_task, model_factory

METRICS: dict[str, Any] = {"search": {}, "export": {}, "baseline": {}}
IMAGE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def written(folder: Path, model: Any, example: torch.Tensor) -> Path:
    contents = Contents(
        model, example, {}, {"architecture": {}}, METRICS, {"name": "a", "choices": {}, "input": {}}
    )
    return write_artifact(folder, contents)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec's folder, with an artifact `out` of `Residual` with 4 channels and 3 classes in it."""
    written(tmp_path / "out", quantized(), IMAGE[:1])
    return tmp_path


def images(channels: int = 1, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(60, channels, 8, 8)).astype(np.float32)
    return x, np.arange(60) % classes


def test_it_is_the_stored_network_in_float_layers_that_train(folder: Path) -> None:
    model = load_model("out/", folder)
    assert not any(isinstance(m, QuantizedLayer | ActivationQuantizer) for m in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    stored = autoprune.load(folder / "out")
    assert torch.equal(model.get_parameter("branch.weight"), stored.get_submodule("branch").dequantized())
    with torch.no_grad():
        assert (model(IMAGE) - stored(IMAGE)).abs().max() < 0.5 * stored(IMAGE).abs().max()


def test_every_call_gives_another_copy(folder: Path) -> None:
    make = model_factory("out", folder)
    one, other = make(), make()
    with torch.no_grad():
        one.get_parameter("head.weight").zero_()
    assert other.get_parameter("head.weight").abs().sum() > 0


def test_its_structure_is_found_again(folder: Path) -> None:
    found = analyse(load_model("out", folder).eval(), IMAGE[:1])
    assert [group.channels for group in found.free] == [4]


def test_a_task_puts_a_head_on_it(folder: Path) -> None:
    task = load_task("classification", folder, {"model": "out/", "data": images(classes=5), "classes": 5})
    check_task(task, task.data())
    assert task.model().get_parameter("head.weight").shape == (5, 8)
    assert task.model().get_parameter("stem.weight").shape == (4, 1, 3, 3)


def test_a_network_without_a_graph_needs_its_factory(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from small_networks import Untraceable as Net\n")
    row = torch.randn(1, 6)
    model = deploy(trained(Untraceable()), {"first": (8, 32)}, row)
    written(tmp_path / "out", model, row)
    with pytest.raises(ArtifactError, match=r"could not be stored as a graph.*folder\?model=file.py:Net"):
        model_factory("out", tmp_path)
    again = load_model("out?model=mine.py:Net", tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(row), model(row))


@pytest.mark.parametrize(
    ("reference", "error", "reason"),
    [
        ("empty", ArtifactError, "is no artifact: it has no manifest.json"),
        ("none/", UnresolvedReference, "there is no file or folder 'none/'"),
        ("out?width=3", UnresolvedReference, "unknown argument 'width', expected model"),
    ],
)
def test_what_is_none_is_refused_when_the_task_is_made(
    folder: Path, reference: str, error: type[BadInput], reason: str
) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(error, match=reason) as refused:
        load_task("classification", folder, {"model": reference, "data": images()})
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
def test_a_damaged_one_is_refused_when_the_task_is_made(folder: Path, name: str) -> None:
    path = folder / "out" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"{name} was changed") as refused:
        load_task("classification", folder, {"model": "out", "data": images()})
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("classes", [{}, {"classes": 5}])
def test_data_of_another_shape_is_refused_before_the_search(folder: Path, classes: dict[str, int]) -> None:
    given = {"model": "out", "data": images(channels=3), **classes}
    task = load_task("classification", folder, given)
    with pytest.raises(
        BadInput, match=r"of shape \(\d, 3, 8, 8\), raises RuntimeError: .*expected input.* to have 1"
    ):
        check_task(task, task.data())


def test_labels_that_the_old_head_does_not_have_are_refused(folder: Path) -> None:
    task = load_task("classification", folder, {"model": "out", "data": images(classes=5)})
    with pytest.raises(TaskError, match="but the model has 3 outputs"):
        check_task(task, task.data())
