import json
import math

import pytest
import torch

from autoprune.errors import ArtifactError
from autoprune.stored import literals

CONSTANTS = [
    None,
    True,
    -3,
    0.1,
    math.inf,
    -math.inf,
    "text",
    (1, (2.5, None)),
    [1, [2]],
    {"a": (1,)},
    slice(None, -1, 2),
    ...,
    torch.float16,
    torch.channels_last,
    torch.device("cpu"),
]


@pytest.mark.parametrize("value", CONSTANTS, ids=repr)
def test_a_constant_survives_json(value):
    assert literals.from_json(json.loads(json.dumps(literals.to_json(value)))) == value


def test_nan_survives_json():
    assert math.isnan(literals.from_json(literals.to_json(math.nan)))


def test_what_is_no_constant_is_refused():
    with pytest.raises(ArtifactError, match="a object cannot be written"):
        literals.to_json(object())


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"a": 1, "b": 2},
        {"dtype": "load"},
        {"dtype": "nn"},
        {"device": "cuda"},
        {"float": "1e9"},
        {"slice": [1]},
        {"dict": [[1, 2]]},
        {"dict": ["ab"]},
        {"node": "x"},
        {"ellipsis": 1},
        2**63,
    ],
    ids=str,
)
def test_an_unknown_kind_is_refused(data):
    with pytest.raises(ArtifactError):
        literals.from_json(data)


def test_deep_nesting_is_refused_before_it_overflows():
    nested: list = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(ArtifactError, match="deep"):
        literals.from_json(nested)
