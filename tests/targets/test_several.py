"""Several targets in one search: every figure for each of them, and what all can run is legal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import TargetError
from autoprune.space import Choices, Options
from autoprune.targets import Measurement, Several
from autoprune.targets.target import configured, designs


class Board:
    """A target whose latency is a number times the reuse that it chooses itself."""

    activation_bits = (8, 32)
    channel_multiple = 4

    def __init__(self, milliseconds: float, bits: tuple[int, ...] = (4, 8, 32), reuse: int = 1) -> None:
        self.milliseconds, self.weight_bits, self.reuse = milliseconds, bits, reuse

    def supports(self, choices: dict[str, Any]) -> str | None:
        return "no" if choices.get("refused") == self.milliseconds else None

    def build(self, model: nn.Module, example: Any) -> Any:
        return SimpleNamespace(files={f"{self.milliseconds}.bin": b"x"}, run=model)

    def measure(self, runnable: Any, example: Any) -> Measurement:
        return Measurement(
            self.milliseconds * self.reuse, figures={"energy_uj": 1.0}, sources={"energy_uj": "x"}
        )

    def price(self, model: nn.Module, example: Any) -> dict[str, float]:
        return {"dsp": 3.0}

    def choices(self, model: nn.Module, example: Any) -> dict[str, Any]:
        return {"target.reuse": Options((1, 2), 1)}

    def designs(self, model: nn.Module, example: Any) -> list[dict[str, Any]]:
        return [{"target.reuse": 1}]

    def configured(self, choices: Choices) -> Board:
        return Board(self.milliseconds, self.weight_bits, int(choices.number("target.reuse", 1)))

    def problems(self, model: nn.Module, example: Any) -> list[str]:
        return ["layer a: cannot"]


MODEL, EXAMPLE = nn.Linear(2, 2), torch.zeros(1, 2)


def both() -> Several:
    return Several({"a": Board(1.0), "b": Board(5.0, (8, 16, 32))})


def test_every_figure_is_there_for_each_target_and_the_first_has_the_plain_names() -> None:
    target = both()
    found = target.measure(target.build(MODEL, EXAMPLE), EXAMPLE).metrics
    assert found == {
        "latency_ms": 1.0, "latency_ms@a": 1.0, "latency_ms@b": 5.0,
        "energy_uj": 1.0, "energy_uj@a": 1.0, "energy_uj@b": 1.0,
    }  # fmt: skip
    assert target.price(MODEL, EXAMPLE) == {"dsp": 3.0, "dsp@a": 3.0, "dsp@b": 3.0}


def test_what_all_can_run_is_legal_and_the_one_that_cannot_is_named() -> None:
    target = both()
    assert (target.weight_bits, target.channel_multiple) == ((8, 32), 4)
    assert target.supports({"refused": 5.0}) == "b: no"
    assert target.problems(MODEL, EXAMPLE) == ["a: layer a: cannot", "b: layer a: cannot"]


def test_targets_without_a_common_width_are_refused() -> None:
    with pytest.raises(TargetError, match="a takes 4; b takes 8"):
        Several({"a": Board(1.0, (4,)), "b": Board(1.0, (8,))})


def test_each_has_its_own_choices_and_those_that_are_read_are_remembered() -> None:
    target = both()
    assert set(target.choices(MODEL, EXAMPLE)) == {"target.a.reuse", "target.b.reuse"}
    assert designs(target, MODEL, EXAMPLE) == [{"target.a.reuse": 1}, {"target.b.reuse": 1}]
    choices = Choices({"target.a.reuse": 1, "target.b.reuse": 2, "other": 3})
    found = configured(target, choices)
    metrics = found.measure(found.build(MODEL, EXAMPLE), EXAMPLE).metrics
    assert (metrics["latency_ms@a"], metrics["latency_ms@b"]) == (1.0, 10.0)
    assert choices.read == {"target.a.reuse": 1, "target.b.reuse": 2}
