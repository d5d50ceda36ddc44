"""A program of torch.export computes what the deployed module computes, for any batch where it can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quantizable_networks import network
from test_onnxruntime import deployed, layers
from torch import nn

from autoprune.deployed.lowered import Lowered
from autoprune.errors import ModelError, TargetError
from autoprune.space import Choices, Options
from autoprune.space.precision import HALF_PRECISIONS
from autoprune.targets.interface import arrays
from autoprune.targets.runtimes import RUNTIMES, sparse_weights
from autoprune.targets.stopwatch import PRECISION
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


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_a_program_in_half_precision_computes_what_the_lowered_module_computes(precision: str) -> None:
    model, inputs = network("residual")
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), (4, 8)))
    runnable = to_program(quantized, inputs[:1], precision=precision)
    with torch.no_grad():
        assert torch.equal(runnable.run(inputs[:5]), Lowered(quantized, precision)(inputs[:5]))


def test_several_precisions_are_a_choice_and_one_is_none() -> None:
    model, inputs = network("mlp")
    several = Torch(precision=["bfloat16", "float32"])
    assert several.choices(model, inputs[:1]) == {PRECISION: Options(("float32", "bfloat16"), "float32")}
    assert not Torch(precision="bfloat16").choices(model, inputs[:1])


def test_a_choice_of_precision_makes_another_program_timed_by_the_same_process() -> None:
    model, inputs = network("mlp")
    several = Torch(precision=["float32", "bfloat16"])
    chosen = several.configured(Choices({PRECISION: "bfloat16"}))
    assert chosen.build(model, inputs[:1]).precision == "bfloat16"
    assert several.build(model, inputs[:1]).precision == "float32"
    assert chosen.stopwatch is several.stopwatch
    assert chosen.machine_key() != several.machine_key() == Torch().machine_key()


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(
        TargetError, match=r"target.precision: got 'int4', accepted are float32, bfloat16, float16"
    ):
        Torch(precision=["float32", "int4"])


def test_a_precision_in_which_the_network_overflows_is_a_problem() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        model[0].bias += 1e5
    lines = Torch(precision=["float32", "bfloat16", "float16"]).problems(model, torch.zeros(1, 4))
    assert lines == ["precision float16: outputs of the network are not finite"]


def half_sparse(columns: int = 64, zeros: int = 2) -> nn.Module:
    """Two products with matrices; of every four weights of the first some are zero."""
    model = nn.Sequential(nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    with torch.no_grad():
        model[0].weight.view(64, -1, 4)[:, :, :zeros] = 0
    return model


@pytest.mark.parametrize(
    ("columns", "zeros", "precision", "expected"),
    [
        (64, 2, "float16", 1),
        (64, 2, "float32", 0),
        (64, 1, "float16", 0),
        (60, 2, "float16", 0),
    ],
)
def test_weights_with_two_of_four_zero_in_half_precision_go_to_sparse_cores(
    columns: int, zeros: int, precision: str, expected: int
) -> None:
    program = to_program(half_sparse(columns, zeros), torch.randn(1, columns), precision=precision).program
    assert len(sparse_weights(program.module())) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
def test_on_a_graphics_card_half_precision_and_sparse_weights_are_measured() -> None:
    target, example = Torch(rounds=2, block_ms=1, provider="cuda", precision="float16"), torch.randn(1, 64)
    assert target.measure(target.build(half_sparse(), example), example).latency_ms > 0


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
