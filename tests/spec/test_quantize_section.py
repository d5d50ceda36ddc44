"""Layers at a bit width of their own: what a spec may say, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autoprune.compress.quantize import Quantize
from autoprune.spec.sections import QuantizeSpace


def test_fixed_bits_go_from_the_spec_to_the_technique() -> None:
    space = QuantizeSpace.model_validate({"fixed": {"classifier": 8, "layer.0.*": 32}})
    assert Quantize(**dict(space)).fixed == {"classifier": 8, "layer.0.*": 32}
    assert QuantizeSpace.model_validate(space.model_dump()) == space


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (["classifier"], "expected bits by layer name"),
        ({"classifier": 9}, r"\.classifier: got 9, expected a number of bits: 2, 3"),
        ({"classifier": True}, r"\.classifier: got True"),
        ({"classifier": "8"}, r"\.classifier: got '8'"),
        ({3: 8}, "expected bits by layer name"),
    ],
)
def test_other_fixed_bits_are_refused(fixed: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizeSpace.model_validate({"fixed": fixed})
