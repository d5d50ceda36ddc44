"""What targets promise: runtimes beside each other, every export format, and a modelled accelerator beside a table.

    python benchmarks/targets.py --only cpu                    ResNet-20 by each runtime, ratios to ONNX Runtime fp32
    python benchmarks/targets.py --only formats                each export format on two networks of random weights
    python benchmarks/targets.py --only asic --table FILE      ZigZag beside the columns of nasbench201_cifar10.npz
    python benchmarks/targets.py --only fpga --table FILE      the model of circuits beside reports, and its column
    python benchmarks/targets.py --only keywords [--minutes M] DS-CNN searched for a Zynq 7020, and its simulation

The reports in `hls4ml_reports.csv` are a sample of those of wa-hls4ml (github.com/jdweitz/wa-hls4ml: dense networks,
Vitis HLS and logic synthesis 2023.2, 5 ns). `keywords` needs `python -m autoprune.targets.environment hls4ml`, g++
and some minutes; `asic` needs that of `zigzag`, and some minutes the first time; answers are kept.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import autoprune
from autoprune.compress.calibrate import calibrate
from autoprune.deployed import deploy, layer_kind
from autoprune.deployed.shapes import LayerShape
from autoprune.errors import AutopruneError
from autoprune.export.parity import IsolatedModel
from autoprune.references import resolve
from autoprune.targets import load_target
from autoprune.targets.formats import FORMATS
from autoprune.tensors import call

STAGES = ((16, 32), (32, 16), (64, 8))  # of NAS-Bench-201: channels and size of the images
CELLS = 5
COLUMNS = ("eyeriss", "fpga", "raspi4", "pixel3", "gold_6226")
CONV1, CONV3, POOL = 2, 3, 4
REPORTS = Path(__file__).with_name("hls4ml_reports.csv")
MULTIPLIERS = 64
ZYNQ_7020 = {"dsp": 220, "lut": 53_200}


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
def _parity(
    model: nn.Module, inputs: torch.Tensor, one: Any, own: Mapping[str, bytes] | None = None
) -> tuple[float, float]:
    expected = call(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in one.write(model, inputs[:1], own or {}).items():
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


def compare_circuits(table: Path) -> None:
    """The model of circuits beside reports, and its cycles beside HW-NAS-Bench's FPGA, which works layer by layer."""
    from scipy.stats import spearmanr

    from autoprune.targets.circuit import Circuit, circuit, cycles_of

    names, errors = ("cycles", "dsp", "lut", "bram36"), []
    with REPORTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        widths, bits = [int(width) for width in row["widths"].split("-")], int(row["bits"])
        shapes = [
            LayerShape("", "Linear", *pair, (), (), 1, (), (), bits, bits)
            for pair in itertools.pairwise(widths)
        ]
        made = [circuit(shape, int(row["reuse"])) for shape in shapes]
        cycles, blocks = cycles_of(made, shapes, "io_parallel"), sum(one.bram for one in made) / 2
        found = (cycles, sum(one.dsp for one in made), sum(one.lut for one in made), blocks)
        errors.append(
            [abs(a - float(row[n])) / max(float(row[n]), 1) for n, a in zip(names, found, strict=True)]
        )
    for name, column in zip(names, np.array(errors).T, strict=True):
        exact, median, tenth = (column == 0).mean(), np.median(column), np.quantile(column, 0.9)
        print(
            f"{name:7} {len(rows)} reports: {exact:.0%} exact, median error {median:.1%}, a tenth above {tenth:.1%}"
        )

    def cell(kernel: int) -> int:
        """Cycles of five convolutions in each stage, each with as many multipliers."""
        made: list[Circuit] = []
        for channels, size in STAGES:
            shape = _convolution(channels, channels, kernel, 1, size)
            made.append(circuit(shape, round(shape.weights / MULTIPLIERS)))
        return CELLS * sum(one.cycles for one in made)

    with np.load(table, allow_pickle=False) as data:
        counts = {kind: (data["ops"] == kind).sum(1) for kind in (CONV1, CONV3, POOL)}
        cycles = counts[CONV1] * cell(1) + counts[CONV3] * cell(3)
        pooled = cycles + counts[POOL] * CELLS * sum(size**2 for _, size in STAGES)
        truth = data["latency_ms__fpga"]
        for what, modelled in (
            ("layers with weights", cycles),
            ("with a cycle for each place of a pooling", pooled),
        ):
            print(
                f"rank correlation with HW-NAS-Bench, {what}: {float(spearmanr(modelled, truth).statistic):.3f}"
            )


def search_keywords(minutes: float) -> None:
    """A search for DS-CNN on spoken digits within a Zynq 7020; its best point as QONNX and hls4ml compute it."""
    spec = {
        "name": "keywords",
        "task": "spoken_digits",
        "space": {
            "architecture": {"width": [0.25, 0.375], "depth": [2, 3, 4]},
            "quantize": {"weight_bits": [6, 8], "activation_bits": [8], "quantizer": "ptq"},
        },
        "target": {"use": "fpga", "reuse": [4, 16, 64, 256]},
        "train": {"epochs": 10, "batch_size": 64, "learning_rate": 0.05},
        "constraints": ["accuracy >= baseline - 5.0", *(f"{n} <= {most}" for n, most in ZYNQ_7020.items())],
        "budget": {"minutes": minutes},
        "search": {"rungs": [3, 9]},
        "cluster": {"workers": 1},
        "export": ["qonnx", "hls4ml"],
    }
    with tempfile.TemporaryDirectory() as folder:
        study = autoprune.search(spec, run=Path(folder, "run"))
        best = study.best()
        artifact = autoprune.export(best, Path(folder, "out"))
        found = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))
    print(f"{len(study.trials)} trials; uncompressed {found['baseline']['accuracy']:.2f} % (test split)")
    listed = ("accuracy", "dsp", "lut", "bram", "cycles", "latency_ms", "size_bytes")
    print(", ".join(f"{name} {found['export'][name]:.6g}" for name in listed))
    for name in spec["export"]:
        parity = found["parity"][name]
        print(
            f"{name}: same class {parity['agreement']:.2f} %, relative error {parity['relative_error']:.1e}"
        )


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, size: int) -> LayerShape:
    sizes = (size, size), (size // stride, size // stride)
    return LayerShape("", "Conv2d", inputs, outputs, (kernel,) * 2, (stride,) * 2, 1, *sizes, 8, 8)


def main() -> None:
    """The parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("cpu", "formats", "asic", "fpga", "keywords"), required=True)
    parser.add_argument("--table", type=Path, help="nasbench201_cifar10.npz, for asic and fpga")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the search of keywords")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.only == "cpu":
        compare_runtimes()
    elif chosen.only == "formats":
        compare_formats()
    elif chosen.only == "keywords":
        search_keywords(chosen.minutes)
    elif chosen.table is None:
        parser.error(f"--only {chosen.only} needs --table")
    elif chosen.only == "fpga":
        compare_circuits(chosen.table)
    else:
        compare_accelerator(chosen.table)


if __name__ == "__main__":
    main()
