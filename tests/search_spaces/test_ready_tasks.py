"""The ready tasks and specs, on small stand-ins for the data sets that must be downloaded."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoprune.errors import TaskError
from autoprune.references import resolve, search_spaces_folder
from autoprune.spec import load_spec
from autoprune.task import BUILT_IN, READY, check_task, load_task
from autoprune.train import TrainSettings, train

SHAPES = {"mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images under the names of the public data sets."""
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        for split, count in (("train", 100), ("test", 20)):
            x = rng.integers(0, 255, (count, *shape), np.uint8)
            np.savez(tmp_path / f"{name}_{split}.npz", x=x, y=np.arange(count, dtype=np.uint8) % 10)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_public_data_sets_are_tasks(name: str, stand_ins: None) -> None:
    task = load_task(name)
    data = task.data()
    check_task(task, data)
    assert [len(split) for split in (data.train, data.val, data.test)] == [90, 10, 20]


INTENTS = [f"intent_{number:02d}" for number in range(77)]


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts under the names of the public ones."""
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    torch.set_num_threads(1)
    rows = [f'"What, about {intent}?",{intent}' for intent in INTENTS * 10]
    for split in ("train", "test"):
        (tmp_path / f"banking77_{split}.csv").write_text("\n".join(["text,category", *rows]))
    alphabet = "".join(chr(48 + number) for number in range(65))
    (tmp_path / "tinyshakespeare.txt").write_text(alphabet * 60)


@pytest.mark.parametrize(
    ("name", "arguments", "lengths"),
    [("banking77", {"words": 100}, [693, 77, 770]), ("tinyshakespeare", {"length": 16}, [219, 12, 12])],
)
def test_public_texts_are_tasks(
    name: str, arguments: dict[str, int], lengths: list[int], texts: None
) -> None:
    task = load_task(name, arguments=arguments)
    data = task.data()
    check_task(task, data)
    assert [len(split) for split in (data.train, data.val, data.test)] == lengths


@pytest.fixture
def signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise under the names of the data sets of sounds and sensors."""
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(2000, 9000, 60)
    sounds = {
        "audio": rng.integers(-3000, 3000, lengths.sum(), np.int16),
        "offset": np.concatenate([[0], lengths.cumsum()]),
        "y": np.arange(60, dtype=np.uint8) % 10,
        "is_test": np.arange(60) >= 50,
    }
    np.savez(tmp_path / "fsdd_8khz.npz", **sounds)
    parts = {"train": 60, "test": 12}
    x = {f"x_{part}": rng.normal(size=(count, 9, 128)).astype(np.float32) for part, count in parts.items()}
    y = {f"y_{part}": np.arange(count, dtype=np.uint8) % 6 for part, count in parts.items()}
    np.savez(tmp_path / "uci_har_subset.npz", **x, **y)


@pytest.mark.parametrize(
    ("name", "lengths", "shape"),
    [("spoken_digits", [45, 5, 10], (1, 49, 20)), ("activities", [51, 9, 12], (9, 128))],
)
def test_sounds_and_signals_are_tasks(
    name: str, lengths: list[int], shape: tuple[int, ...], signals: None
) -> None:
    task = load_task(name)
    data = task.data()
    check_task(task, data)
    assert [len(split) for split in (data.train, data.val, data.test)] == lengths
    assert next(iter(data.train.batches(2, shuffle=0))).inputs.shape == (2, *shape)


def test_a_high_tone_lies_in_a_high_band() -> None:
    log_mel = resolve("spoken_digits.py:log_mel")
    time = np.arange(8000) / 8000
    low, high = (log_mel(np.sin(2 * np.pi * f * time)[None].astype(np.float32), 20) for f in (300, 3000))
    assert low.shape == (1, 49, 20)
    assert low.mean(1).argmax() < 6 < 15 < high.mean(1).argmax()


@pytest.mark.parametrize("name", sorted(READY))
def test_what_can_be_searched_are_arguments_of_the_model(name: str) -> None:
    task = load_task(name)
    parameters = inspect.signature(task.model).parameters
    for argument, values in task.architecture.items():  # type: ignore[attr-defined]
        assert parameters[argument].default in values


def test_digits_are_split_1077_360_360_of_each_digit_alike() -> None:
    data = load_task("digits").data()
    assert [len(split) for split in (data.train, data.val, data.test)] == [1077, 360, 360]
    for split in (data.val, data.test):
        counts = np.bincount(split.targets)  # type: ignore[attr-defined]
        assert counts.min() >= 33


def test_digits_pass_the_check_and_are_learnt() -> None:
    torch.set_num_threads(1)
    task = load_task("digits", arguments={"channels": 8})
    data = task.data()
    check_task(task, data)
    torch.manual_seed(0)
    model = task.model()
    summary = train(model, task, data.train, epochs=5, settings=TrainSettings(batch_size=64))
    assert summary.loss < 0.7  # guessing is at 2.3


@pytest.mark.parametrize("path", sorted(search_spaces_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_specs_are_valid_and_named_as_their_file(path: Path) -> None:
    spec = load_spec(path.stem)
    assert spec.name == path.stem
    assert spec.task.use in BUILT_IN


def test_published_weights_fill_the_baseline_only(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = {
        name: value
        for name, value in resolve("resnet.py:resnet")().state_dict().items()
        if "shortcut" not in name and "num_batches" not in name
    }
    save_file(published, tmp_path / "weights.safetensors")
    task = load_task("cifar10", arguments={"weights": str(tmp_path / "weights.safetensors")})
    assert torch.equal(task.model().conv1.weight, published["conv1.weight"])
    assert not torch.equal(task.model(blocks1=2).conv1.weight, published["conv1.weight"])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv1.weight": torch.zeros(16, 3, 3, 3)}, r"not those of ResNet-20 \(missing \['bn1.weight'"),
        ({"conv1.weight": torch.zeros(1)}, "weights: they do not fit ResNet-20"),
        (None, "cannot be read as safetensors"),
    ],
)
def test_other_weights_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor] | None, message: str
) -> None:
    path = tmp_path / "weights.safetensors"
    if tensors is not None:
        save_file(tensors, path)
    with pytest.raises(TaskError, match=message):
        load_task("cifar10", arguments={"weights": str(path)}).model()
