"""Layers at a bit width of their own: what a spec may say, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autoprune.compress.quantize import Quantize
from autoprune.spec.techniques import QuantizeSpace


def test_fixed_bits_go_from_the_spec_to_the_technique() -> None:
    space = QuantizeSpace.model_validate({"fixed": {"classifier": 8, "layer.0.*": 32}})
    assert Quantize(**dict(space)).fixed == {"classifier": 8, "layer.0.*": 32}
    assert QuantizeSpace.model_validate(space.model_dump()) == space


def test_aware_is_another_spelling_of_quantizer() -> None:
    space = QuantizeSpace.model_validate({"aware": ["qat", "lsq"]})
    assert space == QuantizeSpace.model_validate({"quantizer": ["qat", "lsq"]})
    assert space.quantizer.values == ("qat", "lsq")
    with pytest.raises(ValidationError, match="got both quantizer and aware"):
        QuantizeSpace.model_validate({"aware": "qat", "quantizer": "lsq"})


def test_how_to_quantize_goes_from_the_spec_to_the_technique() -> None:
    given = {
        "quantizer": ["ptq", "qat", "lsq", "codebook"],
        "calibration": ["mse", "min_max", "percentile", "entropy"],
        "granularity": ["per_tensor", "per_channel"],
        "bias_correction": [False, True],
    }
    space = QuantizeSpace.model_validate(given)
    assert QuantizeSpace.model_validate(space.model_dump()) == space
    technique = Quantize(**dict(space))
    for name, values in given.items():
        assert getattr(technique, name).values == tuple(values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quantizer", "codebok", "did you mean 'codebook'"),
        ("calibration", "kl", "expected one or a list of mse, min_max, percentile, entropy"),
        ("granularity", "per_group", "expected one or a list of per_channel, per_tensor"),
        ("bias_correction", "yes", "got 'yes'"),
        ("bias_correction", 1, "got 1"),
    ],
)
def test_what_is_no_way_to_quantize_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizeSpace.model_validate({field: value})


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (["classifier"], "expected bits by layer name"),
        ({"classifier": 17}, r"\.classifier: got 17, expected a number of bits: 2, 3"),
        ({"classifier": True}, r"\.classifier: got True"),
        ({"classifier": "8"}, r"\.classifier: got '8'"),
        ({3: 8}, "expected bits by layer name"),
    ],
)
def test_other_fixed_bits_are_refused(fixed: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizeSpace.model_validate({"fixed": fixed})
