"""A device known by a table: rows are taken as they are, others by a sum whose error is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.cost import count
from autoprune.errors import TargetError
from autoprune.targets import load_target
from autoprune.targets.device_table import Table

HEAD = "kind,inputs,outputs,kernel,size,weight_bits,activation_bits,milliseconds"
EXAMPLE = torch.zeros(1, 4, 8, 8)


def law(inputs: int, outputs: int, kernel: int, size: int, bits: int) -> float:
    """What the device that was timed really does."""
    return 0.01 + inputs * outputs * kernel**2 * size**2 * 1e-6 * bits / 32


def table(folder: Path, noise: float = 0.0) -> Path:
    lines = [HEAD]
    shapes = [(i, o, k, s) for i in (2, 4, 8, 16) for o in (4, 8, 16) for k in (1, 3) for s in (4, 8)]
    for index, (inputs, outputs, kernel, size) in enumerate(shapes):
        for bits in (8, 32):
            milliseconds = law(inputs, outputs, kernel, size, bits) * (1 + noise * (-1) ** index)
            lines.append(f"Conv2d,{inputs},{outputs},{kernel},{size},{bits},{bits},{milliseconds}")
    lines += [f"Linear,{n},10,1,1,32,32,{0.005 + n * 1e-5}" for n in (16, 64, 256)]
    path = folder / "board.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def network(width: int = 8) -> nn.Module:
    layers = [nn.Conv2d(4, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, 10)]
    return nn.Sequential(*layers).eval()


def test_a_row_of_the_table_is_taken_as_it_is_and_others_by_the_sum(tmp_path: Path) -> None:
    table(tmp_path)
    target = load_target("table", tmp_path, {"table": "board.csv"})
    assert isinstance(target, Table)
    linear = 0.005 + 512 * 1e-5
    assert target.price(network(8), EXAMPLE)["latency_ms"] == pytest.approx(
        law(4, 8, 3, 8, 32) + linear, rel=0.02
    )
    between = target.price(network(6), EXAMPLE)["latency_ms"]
    assert between == pytest.approx(law(4, 6, 3, 8, 32) + 0.005 + 384 * 1e-5, rel=0.02)


def test_the_error_of_the_sum_is_told_with_every_latency(tmp_path: Path) -> None:
    exact, noisy = (Table(str(table(tmp_path, noise))) for noise in (0.0, 0.1))
    found = noisy.measure(noisy.build(network(), EXAMPLE), EXAMPLE)
    assert exact.measure(exact.build(network(), EXAMPLE), EXAMPLE).spread < 0.01
    assert 0.05 < found.spread < 0.2
    assert "99 rows, median error 6" in found.sources["latency_ms"]


def test_bits_count_and_those_that_are_not_in_the_table_are_not_legal(tmp_path: Path) -> None:
    target = Table(str(table(tmp_path)))
    assert target.weight_bits == (8, 32)
    assert "no 4-bit weights" in (target.supports({"quantize.0.weight_bits": 4}) or "")


def test_a_layer_of_a_kind_that_is_not_there_is_named(tmp_path: Path) -> None:
    target = Table(str(table(tmp_path)))
    model = nn.Sequential(nn.ConvTranspose2d(4, 2, 3)).eval()
    assert target.problems(model, EXAMPLE) == [
        "layer 0: board.csv has no row of kind ConvTranspose2d, only of Conv2d, Linear"
    ]
    assert target.problems(network(), EXAMPLE) == []


def test_every_wrong_row_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(f"{HEAD}\nConv2d,1,1,1,1,8,8,0\n,1,1,1,1,8,8,1\nConv2d,x,1,1,1,8,8,1\n")
    with pytest.raises(TargetError) as error:
        Table("bad.csv", tmp_path)
    assert [line.split(": ")[2] for line in str(error.value).splitlines()] == ["line 2", "line 3", "line 4"]


@pytest.mark.parametrize(
    ("content", "message"), [("a,b\n1,2\n", "a column kind is missing"), (f"{HEAD}\n", "0 rows")]
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(TargetError, match=message):
        Table("bad.csv", tmp_path)
    with pytest.raises(TargetError, match="cannot be read"):
        Table("none.csv", tmp_path)


def test_the_model_is_the_same_before_and_after_it_is_deployed(tmp_path: Path) -> None:
    target = Table(str(table(tmp_path)))
    assert count(network(), EXAMPLE)["macs"] > 0
    built = target.build(network(), EXAMPLE)
    assert target.measure(built, EXAMPLE).latency_ms == target.price(network(), EXAMPLE)["latency_ms"]
