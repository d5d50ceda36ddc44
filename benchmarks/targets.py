"""What targets promise: runtimes beside each other, every export format, and a modelled accelerator beside a table.

    python benchmarks/targets.py --only cpu                    ResNet-20 by each runtime, ratios to ONNX Runtime fp32
    python benchmarks/targets.py --only formats                each export format on two networks of random weights
    python benchmarks/targets.py --only asic --table FILE      ZigZag beside the columns of nasbench201_cifar10.npz

`asic` needs `python -m autoprune.targets.environment zigzag`, and some minutes the first time; answers are kept.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import deploy, layer_kind
from autoprune.deployed.shapes import LayerShape
from autoprune.errors import AutopruneError
from autoprune.export.formats import FORMATS
from autoprune.export.parity import IsolatedModel
from autoprune.references import resolve
from autoprune.targets import load_target
from autoprune.tensors import call

STAGES = ((16, 32), (32, 16), (64, 8))  # of NAS-Bench-201: channels and size of the images
CELLS = 5
COLUMNS = ("eyeriss", "fpga", "raspi4", "pixel3", "gold_6226")
CONV1, CONV3, POOL = 2, 3, 4


def rounded(model: nn.Module, inputs: torch.Tensor, bits: tuple[int, int]) -> nn.Module:
    """A network in so many bits, its ranges read off some inputs."""
    layers = [name for name, module in model.named_modules() if layer_kind(module)]
    made = deploy(model, dict.fromkeys(layers, bits), inputs[:1])
    calibrate(made, [inputs])
    return made


def compare_runtimes() -> None:
    """ResNet-20 of random weights by each runtime, one thread: milliseconds, and their ratio to fp32."""
    torch.manual_seed(0)
    model, inputs = resolve("resnet.py:resnet")().eval(), torch.randn(64, 3, 32, 32)
    networks = {
        "fp32": model,
        "7-bit": rounded(model, inputs, (7, 8)),
        "8-bit": rounded(model, inputs, (8, 8)),
    }
    first = 0.0
    for name in ("onnxruntime", "openvino", "torch"):
        target = load_target(name)
        for what, network in networks.items():
            if name == "torch" and what != "fp32":
                continue
            found = target.measure(target.build(network, inputs[:1]), inputs[:1])
            first = first or found.latency_ms
            note = " UNSTABLE" if found.unstable else ""
            note += (
                " (8 bits saturate on this processor)"
                if what == "8-bit" and 8 not in target.weight_bits
                else ""
            )
            ratio, spread = found.latency_ms / first, 100 * found.spread
            print(f"{name:12} {what:6} {found.latency_ms:8.3f} ms {ratio:6.2f}  spread {spread:.0f} %{note}")


def compare_formats() -> None:
    """Each format, written, run where only its runtime is, and held against the module."""
    torch.manual_seed(0)
    images, tokens = torch.randn(64, 1, 8, 8), torch.randn(64, 12, 16)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    networks: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "digits, 4 bits": (rounded(resolve("small_cnn.py:small_cnn")().eval(), images, (4, 8)), images),
        "small transformer": (nn.Sequential(encoder, nn.Flatten(), nn.Linear(192, 10)).eval(), tokens),
    }
    for what, (model, inputs) in networks.items():
        for name, one in FORMATS.items():
            start = time.perf_counter()
            try:
                error, agree = _parity(model, inputs, one)
            except AutopruneError as refused:
                print(f"{what:18} {name:13} refused: {str(refused)[:100]}")
                continue
            seconds = time.perf_counter() - start
            print(f"{what:18} {name:13} error {error:.1e}, same class {agree:.1f} %, {seconds:.1f} s")


@torch.no_grad()
def _parity(model: nn.Module, inputs: torch.Tensor, one: Any) -> tuple[float, float]:
    expected = call(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in one.write(model, inputs[:1]).items():
            Path(folder, name).write_bytes(content)
        with IsolatedModel(Path(folder), one, lambda given: call(model, given)) as isolated:
            found = isolated.run(inputs)
    error = float((found - expected).norm() / expected.norm())
    return error, 100.0 * float((found.argmax(1) == expected.argmax(1)).float().mean())


def compare_accelerator(table: Path) -> None:
    """Rank correlation of ZigZag's Eyeriss-like accelerator with measured or published latencies of 15,625 networks."""
    from scipy.stats import spearmanr

    from autoprune.targets.asic import Asic

    target = Asic("eyeriss_like")
    fixed = [_convolution(3, 16, 3, 1, 32), LayerShape("head", "Linear", 64, 10, (), (), 1, (), (), 8, 8)]
    for (before, size), (after, _) in itertools.pairwise(STAGES):
        fixed += [_convolution(before, after, 3, 2, size), _convolution(before, after, 1, 1, size // 2)]
        fixed += [_convolution(after, after, 3, 1, size // 2)]
    in_cells = [_convolution(c, c, kernel, 1, size) for kernel in (1, 3) for c, size in STAGES]
    start = time.perf_counter()
    costs = target.layer_costs([*fixed, *in_cells])
    cold, start = time.perf_counter() - start, time.perf_counter()
    target.layer_costs([*fixed, *in_cells])
    warm = time.perf_counter() - start
    print(f"ZigZag: {cold:.1f} s for {len(costs)} layers now, {1e3 * warm:.1f} ms once they are known")
    cycles = [one["cycles"] for one in costs]
    one, three = (sum(cycles[len(fixed) + i : len(fixed) + i + 3]) for i in (0, 3))
    with np.load(table, allow_pickle=False) as data:
        counts = {kind: (data["ops"] == kind).sum(1) for kind in (CONV1, CONV3, POOL)}
        plain = sum(cycles[: len(fixed)]) + CELLS * (counts[CONV1] * one + counts[CONV3] * three)
        pooled = plain + CELLS * counts[POOL] * three
        for column in COLUMNS:
            truth = data[f"latency_ms__{column}"]
            found = [float(spearmanr(modelled, truth).statistic) for modelled in (plain, pooled)]
            print(f"{column:10} {found[0]:.3f}; with pooling priced as a 3x3 convolution {found[1]:.3f}")


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, size: int) -> LayerShape:
    sizes = (size, size), (size // stride, size // stride)
    return LayerShape("", "Conv2d", inputs, outputs, (kernel,) * 2, (stride,) * 2, 1, *sizes, 8, 8)


def main() -> None:
    """The parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("cpu", "formats", "asic"), required=True)
    parser.add_argument("--table", type=Path, help="nasbench201_cifar10.npz, for asic")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.only == "cpu":
        compare_runtimes()
    elif chosen.only == "formats":
        compare_formats()
    elif chosen.table is None:
        parser.error("--only asic needs --table")
    else:
        compare_accelerator(chosen.table)


if __name__ == "__main__":
    main()
