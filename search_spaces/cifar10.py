"""CIFAR-10: 60,000 small pictures of animals and vehicles, 32×32 pixels (Krizhevsky 2009), and ResNet-20."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.datasets import load_arrays
from autoprune.errors import TaskError
from autoprune.references import resolve
from autoprune.task import ClassificationTask, CropAndFlip, Data, InputFormat, make_data

resnet = resolve("resnet.py:resnet", folder=Path(__file__).parent)
small_cnn = resolve("small_cnn.py:small_cnn", folder=Path(__file__).parent)


class Cifar10(ClassificationTask):
    """Ten kinds of pictures: 45,000 to train, 5,000 to validate, the official 10,000 to test.

    Args:
        weights: safetensors file with weights of ResNet-20 under the names of akamaster's repository
            (pytorch_resnet_cifar10): the baseline starts trained (set `train.epochs: 0`). None: from scratch.
        validation: the share of the 50,000 to validate on; fewer make trials faster, and chance larger.

    Raises:
        TaskError: the file is not there or does not fit, or the share leaves a split empty.
    """

    def __init__(self, weights: str | None = None, validation: float = 0.1) -> None:
        self._weights = None if weights is None else _load(Path(weights).expanduser())
        super().__init__(
            self._network,
            partial(cifar10_data, validation),
            architecture={"blocks1": [1, 2, 3], "blocks2": [1, 2, 3], "blocks3": [1, 2, 3]},
        )

    def _network(
        self, blocks1: int = 3, blocks2: int = 3, blocks3: int = 3, width: float = 1.0, kernel_size: int = 3
    ) -> nn.Module:
        given = {"blocks1": blocks1, "blocks2": blocks2, "blocks3": blocks3}
        network: nn.Module = resnet(**given, width=width, kernel_size=kernel_size)
        is_baseline = (*given.values(), width, kernel_size) == (3, 3, 3, 1.0, 3)
        if self._weights is not None and is_baseline:
            _fill(network, self._weights)
        return network


def cifar10_cnn(*, width: float = 1.0, depth: int = 3, kernel_size: int = 3) -> nn.Module:
    """A small convolutional network for pictures in colour, see `small_cnn.py`."""
    network: nn.Module = small_cnn(width=width, depth=depth, kernel_size=kernel_size, in_channels=3)
    return network


def _load(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TaskError(f"weights: {path} cannot be read as safetensors: {error}") from error
    return tensors


def _fill(network: nn.Module, tensors: dict[str, Any]) -> None:
    """Load the published weights, which have no shortcuts and count no batches."""
    try:
        missing, unknown = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise TaskError(f"weights: they do not fit ResNet-20: {error}") from error
    missing = [name for name in missing if "shortcut" not in name and "num_batches" not in name]
    if missing or unknown:
        raise TaskError(f"weights: they are not those of ResNet-20 (missing {missing}, unknown {unknown})")


def cifar10_data(validation: float = 0.1) -> Data:
    """The three splits, with this share of the training set to validate on."""
    return make_data(
        load_arrays("cifar10", "train"),
        test=load_arrays("cifar10", "test"),
        format=InputFormat(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        augment=CropAndFlip(padding=4, flip=True),
        shares=(validation, 0.0),
    )
