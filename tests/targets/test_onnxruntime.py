"""ONNX Runtime computes what the deployed module computes, in integers where it can."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from quantizable_networks import NETWORKS, network
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import Widths, deploy, layer_kind
from autoprune.errors import TargetError
from autoprune.foresight import in_integers
from autoprune.targets.onnx_graph import to_onnx
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.targets.runtimes import session_options


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if layer_kind(module)]


def deployed(model: nn.Module, inputs: torch.Tensor, bits: dict[str, tuple[int, int]]) -> nn.Module:
    quantized = deploy(model, bits, inputs[:1])
    calibrate(quantized, [inputs])
    return quantized


def differences(model: nn.Module, inputs: torch.Tensor) -> np.ndarray[Any, Any]:
    """Between module and runtime, of each example, relative to the largest output."""
    with torch.no_grad():
        expected = model(inputs).numpy()
    outputs = OnnxRuntime().build(model, inputs[:1]).run(inputs).numpy()
    return np.asarray(np.abs(outputs - expected).max(1) / np.abs(expected).max())


def agree(model: nn.Module, inputs: torch.Tensor) -> bool:
    """Exactly for nearly all; a value that lies on the edge of two codes may fall to either side."""
    found = differences(model, inputs)
    return bool((found < 1e-4).mean() >= 0.95 and found.max() < 5e-3)


def fused(content: bytes, folder: Path) -> Counter[str]:
    """The operations that are left when ONNX Runtime has fused all it can."""
    import onnxruntime

    options = session_options(threads=1)
    options.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (3, 32), (16, 8), (32, 8), (16, 32)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_runtime_and_module_agree(name: str, bits: tuple[int, int]) -> None:
    model, inputs = network(name)
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), bits))
    if name == "shared":  # a layer called twice keeps a float bias, which the runtime rounds
        assert differences(quantized, inputs).max() < 2e-3
    else:
        assert agree(quantized, inputs)


def test_sums_of_the_largest_products_do_not_saturate() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    for weights in (model[0].weight, model[3].weight):
        nn.init.ones_(weights)
    inputs = torch.ones(4, 16, 3, 3)
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), (8, 8)))
    assert differences(quantized, inputs).max() < 1e-3


@pytest.mark.parametrize("seed", range(6))
def test_runtime_and_module_agree_for_any_mixture_of_bits(seed: int) -> None:
    model, inputs = network(("residual", "concat", "separable")[seed % 3])
    draw = random.Random(seed)
    bits = {name: (draw.choice((2, 4, 8, 16, 32)), draw.choice((8, 32))) for name in layers(model)}
    assert agree(deployed(model, inputs, bits), inputs)


def test_an_unquantized_model_runs_as_it_is() -> None:
    model, inputs = network("residual")
    assert differences(model, inputs).max() <= 1e-5


def test_an_integer_model_has_no_float_layer_left(tmp_path: Path) -> None:
    model, inputs = network("residual")
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), (8, 8)))
    operations = fused(OnnxRuntime().build(quantized, inputs[:1]).files["model.onnx"], tmp_path)
    assert operations["QLinearConv"] == 5
    assert operations["QLinearAdd"] == 2
    assert operations["QGemm"] == 1
    assert not {"Conv", "Gemm", "Add", "DequantizeLinear"} & operations.keys()


@pytest.mark.parametrize(
    ("layer", "shape", "operation"),
    [
        (nn.Conv2d(16, 16, 3, padding=1), (16, 8, 8), "QLinearConv"),
        (nn.Conv2d(16, 16, 3, groups=16), (16, 8, 8), "QLinearConv"),
        (nn.Conv1d(16, 8, 3), (16, 20), "QLinearConv"),
        (nn.Linear(16, 8), (16,), "QGemm"),
        (nn.Linear(16, 8), (5, 16), "MatMulIntegerToFloat"),
    ],
    ids=["conv", "depthwise", "signal", "linear", "tokens"],
)
def test_a_layer_that_is_timed_alone_in_integers_is_computed_in_integers(
    layer: nn.Module, shape: tuple[int, ...], operation: str, tmp_path: Path
) -> None:
    example = torch.randn(1, *shape)
    made = in_integers(nn.Sequential(layer, nn.ReLU()), example)
    operations = fused(OnnxRuntime().build(made, example).files["model.onnx"], tmp_path)
    assert operations[operation] and not {"Conv", "Gemm"} & operations.keys()


def test_one_scale_for_a_weight_runs_in_integers_too(tmp_path: Path) -> None:
    model, inputs = network("residual")
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), Widths(8, 8, "per_tensor")))
    operations = fused(OnnxRuntime().build(quantized, inputs[:1]).files["model.onnx"], tmp_path)
    assert (operations["QLinearConv"], operations["QLinearAdd"], operations["QGemm"]) == (5, 2, 1)
    assert not {"Conv", "Gemm", "Add", "DequantizeLinear"} & operations.keys()


@pytest.mark.parametrize("form", ["per_tensor", "codebook"])
@pytest.mark.parametrize("name", ["residual", "tokens", "decoder", "untraceable"])
def test_runtime_and_module_agree_in_every_form(name: str, form: str) -> None:
    model, inputs = network(name)
    for bits in ((4, 8), (8, 32)):
        assert agree(deployed(model, inputs, dict.fromkeys(layers(model), Widths(*bits, form))), inputs)


def test_shared_values_are_stored_as_indices_and_looked_up_when_a_session_opens(tmp_path: Path) -> None:
    model, inputs = network("residual")
    sizes = []
    for bits in (2, 4):
        quantized = deployed(model, inputs, dict.fromkeys(layers(model), Widths(bits, 32, "codebook")))
        content = to_onnx(quantized, inputs[:1]).content
        sizes.append(len(content))
        assert not {"LookUp", "Gather", "UnpackIndices"} & fused(content, tmp_path).keys()
    weights = sum(model.get_submodule(name).weight.numel() for name in layers(model))
    values = len(layers(model)) * (2**4 - 2**2) * 4
    assert sizes[1] - sizes[0] == pytest.approx(weights * 2 / 8 + values, abs=30)


def test_the_newer_exporter_carries_every_form() -> None:
    model, inputs = network("mlp")
    for form in ("per_tensor", "codebook"):
        quantized = deployed(model, inputs, dict.fromkeys(layers(model), Widths(4, 8, form)))
        assert to_onnx(quantized, inputs[:1], first="torch.export").way == "torch.export"


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_packed_weights_become_the_same_integer_operations(bits: int, tmp_path: Path) -> None:
    model, inputs = network("residual")
    content = (
        OnnxRuntime()
        .build(deployed(model, inputs, dict.fromkeys(layers(model), (bits, 8))), inputs[:1])
        .files["model.onnx"]
    )
    stored = onnx.load_from_string(content)
    assert any(node.op_type == "Unpack" for node in stored.graph.node)
    operations = fused(content, tmp_path)
    assert operations["QLinearConv"] == 5
    assert "Unpack" not in operations


def test_fewer_bits_make_a_smaller_file() -> None:
    model, inputs = network("residual")
    sizes = [
        len(to_onnx(deployed(model, inputs, dict.fromkeys(layers(model), bits)), inputs[:1]).content)
        for bits in ((2, 32), (4, 32), (8, 32), (16, 32))
    ] + [len(to_onnx(model, inputs[:1]).content)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 5


def test_any_batch_size_runs() -> None:
    model, inputs = network("concat")
    runnable = OnnxRuntime().build(deployed(model, inputs, dict.fromkeys(layers(model), (8, 8))), inputs[:1])
    one = torch.cat([runnable.run(example[None]) for example in inputs[:5]])
    assert torch.allclose(one, runnable.run(inputs[:5]), atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"quantize.conv.weight_bits": 4, "quantize.conv.activation_bits": 8}, None),
        ({"quantize.conv.weight_bits": 12}, "12-bit weight"),
        ({"quantize.conv.activation_bits": 4}, "8, 32 are legal"),
        ({"prune.conv.ratio": 0.5}, None),
    ],
)
def test_illegal_bits_are_refused_with_a_reason(choices: dict[str, Any], reason: str | None) -> None:
    found = OnnxRuntime().supports(choices)
    assert found is None if reason is None else reason in str(found)


def test_a_provider_that_is_not_installed_is_refused() -> None:
    with pytest.raises(TargetError, match="accepted are cpu, cuda, tensorrt"):
        OnnxRuntime(provider="gpu")
    with pytest.raises(TargetError, match=r"tensorrt is not part of the installed ONNX Runtime; install"):
        OnnxRuntime(provider="tensorrt")


def test_a_file_in_half_precision_holds_weights_of_16_bits_and_computes_nearly_the_same() -> None:
    model, inputs = network("residual")
    runnable = OnnxRuntime(precision="float16").build(model, inputs[:1])
    weights = onnx.load_from_string(runnable.files["model.onnx"]).graph.initializer
    assert onnx.TensorProto.FLOAT16 in {one.data_type for one in weights}
    with torch.no_grad():
        expected = model(inputs)
    assert float((runnable.run(inputs) - expected).norm() / expected.norm()) < 0.005


def test_beside_integers_floats_keep_32_bits() -> None:
    model, inputs = network("residual")
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), (8, 8)))
    ones, others = (OnnxRuntime(precision=one).build(quantized, inputs[:1]) for one in ("float32", "float16"))
    assert others.precision == "float32"
    assert ones.files == others.files
