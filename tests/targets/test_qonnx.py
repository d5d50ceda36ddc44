"""QONNX files: every number as wide as it is, and computed by QONNX's own library and hls4ml's C++ as we compute it."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import ActivationQuantizer, Widths, deploy, layer_kind
from autoprune.deployed.quantizers import FIXED_POINT, PER_CHANNEL
from autoprune.errors import MissingExtra, ModelError
from autoprune.export.parity import IsolatedModel
from autoprune.targets import hls4ml
from autoprune.targets.environment import READY, folder_of
from autoprune.targets.formats import FORMATS
from autoprune.targets.fpga import Fpga
from autoprune.targets.qonnx import DOMAIN, to_qonnx, with_quant_nodes
from autoprune.tensors import call

INPUTS = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A residual branch, an average over the image, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.branch = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.branch(x)).mean((2, 3)))  # type: ignore[no-any-return]


def deployed(form: str, bits: tuple[int, int] = (5, 7)) -> nn.Module:
    model = Network().eval()
    layers = [name for name, module in model.named_modules() if layer_kind(module)]
    made = deploy(model, {name: Widths(*bits, form) for name in layers}, INPUTS[:1])
    is_fixed = form == FIXED_POINT
    fit = ActivationQuantizer.set_fixed_point if is_fixed else ActivationQuantizer.set_range
    calibrate(made, [INPUTS], fit=fit)
    return made


@pytest.mark.parametrize(("form", "error"), [(FIXED_POINT, 0.0), (PER_CHANNEL, 0.01)])
def test_what_is_written_computes_the_same(form: str, error: float) -> None:
    model = deployed(form)
    with torch.no_grad():
        expected, found = model(INPUTS), with_quant_nodes(model)(INPUTS)
    assert (expected - found).norm() <= error * expected.norm()  # of powers of two every bit


def test_every_weight_bias_and_rounded_tensor_has_a_node_of_its_bits() -> None:
    graph = onnx.load(io.BytesIO(to_qonnx(deployed(FIXED_POINT), INPUTS[:1]))).graph
    nodes = [node for node in graph.node if node.op_type == "Quant"]
    assert all(node.domain == DOMAIN for node in nodes)
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    bits = [int(constants[node.input[3]]) for node in nodes]
    assert bits.count(5) == 3  # weights
    assert bits.count(7) >= 3 and len(nodes) >= 3 + 3 + 3  # what layers read, and biases


def test_what_it_cannot_carry_is_one_sentence_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x @ x.transpose(-1, -2))

    with pytest.raises(ModelError, match="cannot be written as QONNX: .*eigvalsh"):
        to_qonnx(Unknown().eval(), INPUTS[:1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", [PER_CHANNEL])
def test_hls4ml_takes_fixed_point_only(form: str) -> None:
    with pytest.raises(ModelError, match="hls4ml needs fixed-point numbers .* stem, branch, head"):
        hls4ml.to_hls4ml(deployed(form), INPUTS[:1], {})
    with pytest.raises(ModelError, match="stem, branch, head stay float: search with `target: fpga`"):
        hls4ml.to_hls4ml(Network().eval(), INPUTS[:1], {})


def test_without_its_environment_it_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    with pytest.raises(MissingExtra, match="hls4ml needs an environment of its own"):
        hls4ml.to_hls4ml(deployed(FIXED_POINT), INPUTS[:1], {})


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "error"), [((5, 7), 0.0), ((12, 10), 0.0), ((16, 16), 1e-6)], ids=str)
@pytest.mark.parametrize("name", ["qonnx", "hls4ml"])
def test_others_compute_every_bit_of_it(
    name: str, bits: tuple[int, int], error: float, tmp_path: Path
) -> None:
    if not (folder_of("hls4ml") / READY).is_file():
        pytest.skip("python -m autoprune.targets.environment hls4ml")
    model = deployed(FIXED_POINT, bits)
    own = Fpga(reuse=4).build(model, INPUTS[:1]).files
    for file, content in FORMATS[name].write(model, INPUTS[:1], own).items():
        (tmp_path / file).write_bytes(content)
    with (
        torch.no_grad(),
        IsolatedModel(tmp_path, FORMATS[name], lambda given: call(model, given)) as isolated,
    ):
        expected, found = model(INPUTS), isolated.run(INPUTS)
    assert (expected - found).norm() <= error * expected.norm()  # beyond 24 bits torch's own sums are rounded
