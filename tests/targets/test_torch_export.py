"""A program of torch.export computes what the deployed module computes, for any batch where it can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quantizable_networks import network
from test_onnxruntime import deployed, layers

from autoprune.errors import ModelError, TargetError
from autoprune.targets.interface import arrays
from autoprune.targets.runtimes import RUNTIMES
from autoprune.targets.torch_export import MODEL_FILE, Torch, compiled, to_program


@pytest.mark.parametrize(
    ("name", "bits"), [("residual", (4, 4)), ("tokens", (4, 4)), ("shared", (32, 32))], ids=str
)
def test_program_and_module_agree(name: str, bits: tuple[int, int]) -> None:
    model, inputs = network(name)
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), bits))
    runnable = to_program(quantized, inputs[:1])
    with torch.no_grad():
        assert torch.allclose(runnable.run(inputs[:5]), quantized(inputs[:5]), atol=1e-5)


def test_what_is_measured_is_the_program_in_the_file(tmp_path: Path) -> None:
    model, inputs = network("mlp")
    (tmp_path / MODEL_FILE).write_bytes(to_program(model, inputs[:1]).files[MODEL_FILE])
    run = RUNTIMES["torch"](tmp_path / MODEL_FILE, arrays(inputs[:1]), 1, "cpu")
    with torch.no_grad():
        assert torch.allclose(run()[0], model(inputs[:1]), atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a graphics card")
def test_without_a_graphics_card_it_is_refused() -> None:
    with pytest.raises(TargetError, match="torch sees no CUDA device here"):
        Torch(provider="cuda")
    with pytest.raises(TargetError, match="got 'gpu', accepted are cpu, cuda"):
        Torch(provider="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
def test_on_a_graphics_card_a_captured_program_is_measured() -> None:
    model, inputs = network("mlp")
    target = Torch(rounds=2, block_ms=1, provider="cuda")
    assert target.measure(target.build(model, inputs[:1]), inputs[:1]).latency_ms > 0


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    model, inputs = network("untraceable")
    with pytest.raises(ModelError, match="cannot be exported by torch.export"):
        to_program(model, inputs[:1])


@pytest.mark.slow
def test_a_compiled_program_computes_the_same(tmp_path) -> None:
    model, inputs = network("mlp")
    name = "model.aoti.pt2"
    (tmp_path / name).write_bytes(compiled(model, inputs[:1])[name])
    loaded = torch._inductor.aoti_load_package(str(tmp_path / name))
    with torch.no_grad():
        assert torch.allclose(loaded(inputs)[0], model(inputs), atol=1e-5)
