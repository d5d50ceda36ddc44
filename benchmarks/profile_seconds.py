"""Seconds of a full profile of ResNet-20 and ResNet-56 on CIFAR-10, made anew, on two workers.

    AUTOPRUNE_DATA=FOLDER .venv/bin/python benchmarks/profile_seconds.py --weights20 FILE --weights56 FILE

The space has a pruning ratio for each group and the bits of each layer. The profile knows the exact costs of all
points, the latency of each layer at a grid of widths in floats and in integers, and the damage of each value of each
choice, measured or estimated. Seconds are those from the call to its return, the start of Ray and the two ends of the
space, evaluated on 5,000 images, included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import autoprune
from autoprune.references import resolve
from autoprune.task import ClassificationTask

WANTED = {20: 60.0, 56: 150.0}
resnet, cifar10_data = resolve("resnet.py:resnet"), resolve("cifar10.py:cifar10_data")


class Published(ClassificationTask):
    """A network of the family with published weights, on CIFAR-10.

    Args:
        depth: 6n + 2.
        weights: safetensors file, as `cifar10.py` takes them.
    """

    def __init__(self, depth: int, weights: str) -> None:
        self._blocks, self._weights = (depth - 2) // 6, load_file(weights)
        super().__init__(self._network, partial(cifar10_data, 0.1))

    def _network(self) -> Any:
        network = resnet(blocks1=self._blocks, blocks2=self._blocks, blocks3=self._blocks)
        network.load_state_dict(self._weights, strict=False)
        return network


def spec_for(depth: int, weights: Path) -> dict[str, Any]:
    """A spec that asks for all that a profile has."""
    return {
        "name": "profile_seconds",
        "task": {"use": f"{Path(__file__).resolve()}:Published", "depth": depth, "weights": str(weights)},
        "space": {
            "prune": {"ratio": [0.0, 0.5], "criterion": ["taylor"]},
            "quantize": {"weight_bits": [4, 8, 32], "activation_bits": [8, 32]},
        },
        "train": {"epochs": 0},
        "budget": {"trials": 100},
        "search": {"rungs": [0], "profile": "full"},
        "cluster": {"workers": 2},
    }


def main() -> int:
    """Make and time both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights20", type=Path)
    parser.add_argument("--weights56", type=Path)
    options = parser.parse_args()
    reached = True
    for depth, weights in ((20, options.weights20), (56, options.weights56)):
        if weights is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AUTOPRUNE_CACHE"] = folder
            start = time.perf_counter()
            made = autoprune.profile(spec_for(depth, weights.resolve()))
            took = time.perf_counter() - start
        preview = made["preview"]
        reached &= took <= WANTED[depth]
        print(
            f"ResNet-{depth}: {took:.0f} s (wanted {WANTED[depth]:.0f}), {len(made['choices'])} choices, "
            f"{preview.get('probed', 0)} damages measured, rank correlation of latency on left-out networks "
            f"{preview.get('rank_correlation', float('nan')):.3f}",
            flush=True,
        )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
