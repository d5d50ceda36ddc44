"""Networks of any form become files that compute the same, or are refused."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import onnx
import pytest
import torch
from any_networks import (
    Branches,
    OneByOne,
    Pair,
    Tagger,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_timm_vit,
    tiny_vit,
    words,
)
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import deploy, layer_kind
from autoprune.errors import ModelError
from autoprune.targets import onnx_graph
from autoprune.targets.onnx_graph import ANY_BATCH, ANY_LENGTH, EXAMPLE, run_session, to_onnx
from autoprune.targets.onnxruntime import OnnxModel, OnnxRuntime
from autoprune.tensors import call, concatenate, map_tensors, tensors_in

PAIR = (torch.randn(1, 6), torch.randn(1, 3))


def eight_bits(model: nn.Module, inputs: Any) -> nn.Module:
    names = [name for name, module in model.named_modules() if layer_kind(module)]
    quantized = deploy(model, dict.fromkeys(names, (8, 8)), inputs)
    calibrate(quantized, [inputs])
    return quantized


def difference(model: nn.Module, runnable: OnnxModel, inputs: Any) -> float:
    with torch.no_grad():
        expected = tensors_in(call(model, inputs))
    found = tensors_in(runnable.run(inputs))
    assert [t.shape for t in found] == [t.shape for t in expected]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def test_several_inputs_and_outputs_keep_their_form() -> None:
    model = Pair().eval()
    runnable = OnnxModel(to_onnx(model, PAIR))
    both, more = runnable.run((torch.randn(5, 6), torch.randn(5, 3)))
    assert both.shape == (5, 4) and more["sum"].shape == (5,)
    assert difference(model, runnable, PAIR) < 1e-5


def test_keywords_go_in_and_a_dataclass_comes_out() -> None:
    model = Tagger().eval()
    exported = to_onnx(model, words())
    answer = OnnxModel(exported).run(concatenate([words(), words()]))
    assert exported.takes == ANY_LENGTH
    assert answer.logits.shape == (2, 6, 3) and answer.hidden is None
    assert difference(model, OnnxModel(exported), words(9)) < 1e-5


def test_names_in_the_file_are_those_of_the_network() -> None:
    described = to_onnx(Tagger().eval(), words()).interface.describe()
    assert [port["name"] for port in described["inputs"]] == ["input_ids", "attention_mask"]
    assert described["inputs"][0] == {"name": "input_ids", "dtype": "int64", "shape": [1, 6]}
    assert [port["name"] for port in described["outputs"]] == ["logits", "words"]


def test_an_output_may_be_called_as_an_input() -> None:
    class Echo(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x + 1}

    exported = to_onnx(Echo().eval(), {"x": torch.zeros(1, 2)})
    assert OnnxModel(exported).run({"x": torch.ones(3, 2)})["x"].tolist() == [[2.0, 2.0]] * 3


def test_an_input_without_effect_is_no_obstacle() -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
            return x * 2

    runnable = OnnxModel(to_onnx(First().eval(), PAIR))
    assert runnable.run(PAIR).shape == (1, 6)


def test_a_network_for_one_example_is_run_one_by_one() -> None:
    model = OneByOne().eval()
    exported = to_onnx(model, torch.randn(1, 6))
    x = torch.randn(3, 6)
    assert exported.takes == EXAMPLE
    torch.testing.assert_close(OnnxModel(exported).run(x), model.layer(x))


@pytest.mark.parametrize(
    ("bits", "wrong_at", "is_refused"),
    [(8, 1, False), (8, "always", True), (32, 1, True)],
    ids=["on the edge of two codes", "wrong", "nothing is rounded"],
)
def test_what_is_off_is_looked_at_again_nearby_where_values_are_rounded(
    monkeypatch: pytest.MonkeyPatch, bits: int, wrong_at: Any, is_refused: bool
) -> None:
    inputs, calls = torch.randn(1, 6), itertools.count(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    network = model if bits == 32 else eight_bits(model, inputs)

    def off(session: Any, given: Any) -> dict[str, Any]:
        is_off = wrong_at in ("always", next(calls))
        return {n: 1.1 * v if is_off else v for n, v in run_session(session, given).items()}

    monkeypatch.setattr(onnx_graph, "run_session", off)
    expected = pytest.raises(ModelError, match="computes something else") if is_refused else nullcontext()
    with torch.no_grad(), expected:
        onnx_graph._prove(network, *_file_of(network, inputs))


def _file_of(network: nn.Module, inputs: torch.Tensor) -> tuple[Any, Any, Any]:
    """What the proof takes beside a network."""
    interface = onnx_graph.Interface(inputs, call(network, inputs))
    content = onnx_graph._written(network, interface, "trace", EXAMPLE)
    session = onnx_graph.open_session(content, 1, "cpu")
    return session, interface, onnx_graph._probes(network, interface)[EXAMPLE]


def test_a_branch_on_values_is_refused_instead_of_frozen() -> None:
    with pytest.raises(ModelError, match=r"by trace: the file computes something else: output .* differs by"):
        to_onnx(Branches().eval(), torch.ones(1, 4))


def test_an_operation_that_no_exporter_knows_is_named() -> None:
    class Decomposed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.qr(x)[1]

    with pytest.raises(ModelError, match=r"cannot be exported .*linalg_qr.*by torch.export: .*linalg_qr"):
        to_onnx(Decomposed().eval(), torch.randn(1, 4, 4))


def test_what_the_older_exporter_lacks_the_newer_one_carries() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(torch.fft.rfft(x))

    model, x = Spectrum().eval(), torch.randn(1, 16)
    target = OnnxRuntime()
    assert target.build(model, x).way == "torch.export"  # type: ignore[attr-defined]
    assert target._way == "torch.export"  # the next candidate starts with it


@pytest.mark.parametrize("make", [tiny_bert, tiny_gpt2, tiny_llama], ids=["bert", "gpt2", "llama"])
def test_transformers_are_traced_with_any_batch_and_length(make: Callable[[], nn.Module]) -> None:
    pytest.importorskip("transformers")
    model, inputs = make(), words()
    exported = to_onnx(model, inputs)
    assert (exported.way, exported.takes) == ("trace", ANY_LENGTH)
    assert difference(model, OnnxModel(exported), concatenate([inputs, inputs])) < 1e-4
    assert getattr(model.config, "use_cache", True)  # put back


def test_a_decoder_without_a_mask_is_traced_too() -> None:
    pytest.importorskip("transformers")
    exported = to_onnx(tiny_gpt2(), {"input_ids": words()["input_ids"]})
    assert (exported.way, exported.takes) == ("trace", ANY_LENGTH)


def test_a_vision_transformer_takes_any_batch() -> None:
    pytest.importorskip("timm")
    model, x = tiny_timm_vit(), torch.randn(1, 3, 16, 16)
    exported = to_onnx(model, x)
    assert exported.takes == ANY_BATCH
    assert difference(model, OnnxModel(exported), torch.randn(4, 3, 16, 16)) < 1e-4


def test_transformers_in_eight_bits_compute_what_the_module_computes() -> None:
    pytest.importorskip("transformers")
    model = eight_bits(tiny_bert(), words())
    exported = to_onnx(model, words())
    assert exported.way == "trace"
    assert difference(model, OnnxModel(exported), words()) < 0.02
    stored = onnx.load_from_string(exported.content)
    codes = [t for t in stored.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert len(codes) == 14  # 6 in each of two layers, pooler and classifier


def test_a_vision_transformer_in_eight_bits_computes_what_the_module_computes() -> None:
    pytest.importorskip("transformers")
    inputs = {"pixel_values": torch.randn(1, 3, 16, 16)}
    model = eight_bits(tiny_vit(), inputs)
    exported = to_onnx(model, inputs)
    assert exported.takes == ANY_BATCH
    assert difference(model, OnnxModel(exported), inputs) < 0.02


def test_the_newer_exporter_writes_the_same_integers() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    quantized, x = eight_bits(model, torch.randn(1, 6)), torch.randn(7, 6)
    exported = to_onnx(quantized, x[:1], first="torch.export")
    assert exported.way == "torch.export"
    assert difference(quantized, OnnxModel(exported), x) < 1e-3


def test_sizes_in_a_lifted_graph_stay_open() -> None:
    from autoprune.deployed.lift import lift

    graph = lift(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), torch.randn(1, 5, 16))
    exported = to_onnx(graph, torch.randn(1, 5, 16))
    assert (exported.way, exported.takes) == ("trace", ANY_BATCH)


def test_exporting_prints_and_warns_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(Tagger().eval(), words())
    assert capfd.readouterr() == ("", "")


def test_a_network_is_left_as_it_was() -> None:
    model = Tagger().eval()
    before = map_tensors(torch.clone, dict(model.state_dict()))
    to_onnx(model, words())
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_axes_counted_from_the_end_are_traced() -> None:
    class Patched(nn.Module):
        """Patches taken apart and put together: of axes of which the exporter does not know how many there are."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            size = x.shape[-2:]
            patches = nn.functional.unfold(x, 2, stride=2)
            for _ in range(patches.shape[0] // patches.shape[0]):
                patches = patches.permute(0, -1, -2).relu().permute(0, -1, 1)
            return nn.functional.fold(patches, size, 2, stride=2)

    exported = to_onnx(Patched(), torch.randn(1, 3, 4, 4))
    assert (exported.way, exported.takes) == ("trace", ANY_BATCH)


def test_a_convolution_with_a_kernel_for_each_example_is_traced_for_one() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(3, 2)
            self.kernels = nn.Parameter(torch.randn(2, 4 * 3 * 9))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count, channels, *size = x.shape
            weight = (self.mix(x.mean((2, 3))).softmax(-1) @ self.kernels).view(count * 4, channels, 3, 3)
            x = x.reshape(1, count * channels, *size)
            return nn.functional.conv2d(x, weight, groups=count).view(count, 4, size[0] - 2, size[1] - 2)

    exported = to_onnx(Conditional().eval(), torch.randn(1, 3, 6, 6))
    assert (exported.way, exported.takes) == ("trace", EXAMPLE)
