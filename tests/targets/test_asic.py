"""An accelerator by ZigZag: asked once for each layer, kept on the disk, and equal to a run of the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from autoprune.deployed import deploy
from autoprune.errors import MissingExtra, TargetError
from autoprune.targets import asic, load_target
from autoprune.targets.asic import Asic
from autoprune.targets.environment import READY, ask, folder_of

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network(width: int = 8) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 64, 10)).eval()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every layer that is asked for; the answers are what it multiplies, by bits."""
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    found: list[dict[str, Any]] = []

    def answer(name: str, script: Path, request: Any, time_limit: float) -> list[dict[str, float]]:
        found.extend(request["layers"])
        sizes = [one["outputs"] * one["inputs"] * one["gives"][0] for one in request["layers"]]
        bits = [one["weight_bits"] for one in request["layers"]]
        return [{"cycles": 1.0 * n, "energy_pj": 1e6 * n * b} for n, b in zip(sizes, bits, strict=True)]

    monkeypatch.setattr(asic, "ask", answer)
    monkeypatch.setattr(asic, "python_of", lambda name: "python")
    return found


def test_a_layer_is_asked_for_once_by_shape_and_bits_also_by_others(asked: list[dict[str, Any]]) -> None:
    target, model = Asic(), network()
    first = target.price(model, EXAMPLE)
    assert len(asked) == 3
    assert target.price(network(), EXAMPLE) == first
    assert Asic().price(network(), EXAMPLE) == first  # another worker, from the disk
    assert len(asked) == 3
    rounded = deploy(model, {"2": (4, 8)}, EXAMPLE)
    assert target.price(rounded, EXAMPLE)["energy_uj"] < first["energy_uj"]
    assert [one["weight_bits"] for one in asked] == [16, 16, 16, 4]


def test_cycles_become_milliseconds_and_say_that_they_are_modelled(asked: list[dict[str, Any]]) -> None:
    target = Asic(megahertz=100.0)
    found = target.measure(target.build(network(), EXAMPLE), EXAMPLE)
    assert found.latency_ms == pytest.approx(found.figures["cycles"] / 1e5)
    assert found.sources["energy_uj"] == "modelled: ZigZag, eyeriss_like at 100 MHz"


def test_a_layer_without_an_answer_is_named(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [{"error": "does not fit"}, {"cycles": 1, "energy_pj": 1}, {"error": "x"}]
    monkeypatch.setattr(asic, "ask", lambda *_: answers)
    with pytest.raises(TargetError) as error:
        Asic().price(network(), EXAMPLE)
    assert str(error.value).splitlines() == ["layer 0: does not fit", "layer 5: x"]


def test_layers_that_its_reader_does_not_take_are_named(asked: list[dict[str, Any]]) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 2, 3)).eval()
    (line,) = Asic().problems(model, EXAMPLE)
    assert line.startswith("layer 0: ")


@pytest.mark.parametrize(
    "arguments", [{"accelerator": "tpu"}, {"accelerator": "no.yaml"}, {"megahertz": 0}], ids=str
)
def test_arguments_that_make_no_sense_are_refused(
    asked: list[dict[str, Any]], arguments: dict[str, Any]
) -> None:
    with pytest.raises(TargetError, match=r"target\.\w+: "):
        load_target("asic", None, arguments)


def test_without_its_environment_it_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    with pytest.raises(MissingExtra, match="zigzag needs an environment of its own"):
        Asic()


@pytest.mark.slow
def test_the_sum_over_layers_is_what_zigzag_says_of_the_whole_network(tmp_path: Path) -> None:
    if not (folder_of("zigzag") / READY).is_file():
        pytest.skip("python -m autoprune.targets.environment zigzag")
    float_model = network()
    file = tmp_path / "network.onnx"
    torch.onnx.export(float_model, (EXAMPLE,), str(file), dynamo=False)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(file)), file)
    request = {"file": str(file), "accelerator": "tpu_like", "mapping": "tpu_like"}
    cycles, picojoules = ask("zigzag", Path(__file__).with_name("zigzag_network.py"), request, 600.0)
    found = Asic("tpu_like").price(
        deploy(float_model, dict.fromkeys(("0", "2", "5"), (8, 8)), EXAMPLE), EXAMPLE
    )
    assert found["cycles"] == pytest.approx(cycles, rel=0.02)
    assert found["energy_uj"] == pytest.approx(picojoules * 1e-6, rel=0.02)
