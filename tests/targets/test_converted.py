"""Files for LiteRT, TensorFlow and ExecuTorch: integers where these have them, and the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import quantized
from torch import nn

from autoprune.errors import MissingExtra
from autoprune.export.parity import IsolatedModel
from autoprune.targets.converted import with_bytes
from autoprune.targets.environment import READY, folder_of
from autoprune.targets.formats import FORMATS, unready
from autoprune.tensors import call

INPUTS = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NAMES = ("litert", "savedmodel", "executorch")


@pytest.mark.parametrize("bits", [4, 8])
def test_bytes_compute_what_the_deployed_network_computes(bits: int) -> None:
    model = quantized(bits)
    with torch.no_grad():
        expected, found = call(model, INPUTS), call(with_bytes(model), INPUTS)
    assert (expected - found).norm() <= 0.01 * expected.norm()
    assert any(tensor.dtype == torch.int8 for tensor in with_bytes(model).buffers())


@pytest.mark.parametrize("name", NAMES)
def test_without_its_environment_a_format_is_refused_with_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    (line,) = unready([name])
    assert line.startswith(f"{name}: ") and "python -m autoprune.targets.environment" in line
    with pytest.raises(MissingExtra):
        FORMATS[name].write(quantized(8), INPUTS[:1], {})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["float", "eight bits"])
@pytest.mark.parametrize("name", NAMES)
def test_others_choose_the_same_classes(name: str, form: str, tmp_path: Path) -> None:
    if not (folder_of(FORMATS[name].environment) / READY).is_file():
        pytest.skip(f"python -m autoprune.targets.environment {FORMATS[name].environment}")
    model = quantized(8) if form == "eight bits" else plain()
    for file, content in FORMATS[name].write(model, INPUTS[:1], {}).items():
        (tmp_path / file).write_bytes(content)
    with (
        torch.no_grad(),
        IsolatedModel(tmp_path, FORMATS[name], lambda given: call(model, given)) as isolated,
    ):
        expected, found = call(model, INPUTS), isolated.run(INPUTS)
    assert (expected - found).norm() <= (0.05 if form == "eight bits" else 1e-5) * expected.norm()
    assert torch.equal(expected.argmax(1), found.argmax(1))


def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval()
