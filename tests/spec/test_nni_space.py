"""NNI's search space in JSON as part of a spec, and points in its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import SpecError
from autoprune.space import Options, Range
from autoprune.spec import Spec, load_spec
from autoprune.spec.nni_space import described, parameters, sections

CONTENT: dict[str, Any] = {
    "width": {"_type": "choice", "_value": [8, 16, 32]},
    "layers": {"_type": "randint", "_value": [1, 4]},
    "scale": {"_type": "quniform", "_value": [0.25, 1.0, 0.5]},
    "lr": {"_type": "loguniform", "_value": [0.001, 0.1]},
    "prune.ratio": {"_type": "uniform", "_value": [0.0, 0.75]},
    "block": {
        "_type": "choice",
        "_value": [
            {"_name": "conv", "kernel": {"_type": "choice", "_value": [3, 5]}},
            {"_name": "none"},
        ],
    },
}


def spec(content: Any, **space: Any) -> Spec:
    return load_spec({"task": "digits", "budget": {"trials": 1}, "space": {"nni": content, **space}})


def test_each_parameter_finds_its_section() -> None:
    space = spec(CONTENT).space
    assert space.architecture == {
        "width": (8, 16, 32),
        "layers": (1, 2, 3),
        "scale": (0.25, 0.5, 1.0),
        "block": ("conv", "none"),
        "block_conv_kernel": (3, 5),
    }
    assert space.learning_rate == Range(0.001, 0.1, space.learning_rate.neutral, None, True)  # type: ignore[union-attr]
    assert space.prune is not None and space.prune.ratio == Range(0.0, 0.75, 0.0)


def test_a_file_is_read_and_the_spec_holds_its_content_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps(CONTENT))
    fields = {"task": "digits", "budget": {"trials": 1}, "folder": str(tmp_path)}
    made = load_spec({**fields, "space": {"nni": "space.json"}})
    (tmp_path / "space.json").unlink()
    again = Spec.from_yaml(made.to_yaml())
    assert again.space == made.space and made.space.nni == CONTENT


def test_what_the_spec_says_itself_counts() -> None:
    space = spec(CONTENT, architecture={"width": [4]}, quantize=True).space
    assert space.architecture != "default" and space.architecture["width"] == (4,)
    assert space.quantize is not None


def test_a_continuum_of_an_argument_has_nine_values() -> None:
    found = sections({"rate": {"_type": "loguniform", "_value": [0.01, 1.0]}})["architecture"]["rate"]
    assert len(found) == 9 and found[4] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ({"_type": "normal", "_value": [0, 1]}, "write uniform instead"),
        ({"_type": "chioce", "_value": [0, 1]}, "did you mean 'choice'"),
        ({"_type": "uniform", "_value": [1, 0]}, r"expected \[low, high\]"),
        ({"_type": "loguniform", "_value": [0, 1]}, "low above 0"),
        ({"_type": "randint", "_value": [0.5, 2]}, "whole numbers"),
        ({"_type": "quniform", "_value": [0, 1]}, "step"),
        ({"_type": "choice", "_value": []}, "expected a list"),
        ({"_type": "choice", "_value": [[1], [2]]}, "expected numbers, text"),
        ({"_type": "choice", "_value": [{"kernel": 3}]}, "_name: text"),
        (3, "_type"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_what_there_is_instead(parameter: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=rf"space.nni.odd: .*{sentence}"):
        spec({"odd": parameter, "width": CONTENT["width"]})


def test_two_levels_of_nesting_are_refused_and_all_problems_are_told_together() -> None:
    deep = {"_type": "choice", "_value": [{"_name": "a", "inner": CONTENT["block"]}]}
    with pytest.raises(SpecError) as caught:
        spec({"deep": deep, "odd": {"_type": "normal", "_value": [0, 1]}})
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "space.nni.deep.a.inner",
        "space.nni.odd",
    ]
    assert "expected one level" in caught.value.problems[0]


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text("{")
    for name in ("space.json", "absent.json"):
        with pytest.raises(SpecError, match="space.nni: .*expected a JSON file"):
            load_spec(
                {
                    "task": "digits",
                    "budget": {"trials": 1},
                    "folder": str(tmp_path),
                    "space": {"nni": name},
                }
            )


def test_a_point_goes_back_under_nni_s_names() -> None:
    point = {
        "architecture.width": 16,
        "architecture.block": "conv",
        "architecture.block_conv_kernel": 5,
        "train.learning_rate": 0.01,
        "quantize.conv1.weight_bits": 8,
    }
    found = parameters(CONTENT, point)
    assert found == {
        "width": 16,
        "block": {"_name": "conv", "kernel": 5},
        "lr": 0.01,
        "quantize.conv1.weight_bits": 8,
    }
    assert parameters(CONTENT, {**point, "architecture.block": "none"})["block"] == {"_name": "none"}


def test_a_space_goes_back_as_nni_s() -> None:
    choices = {
        "architecture.width": Options((8, 16, 32), 8),
        "architecture.depth": Options((1, 2), 2),
        "prune.conv1.ratio": Range(0.0, 0.75, 0.0),
        "train.learning_rate": Range(0.001, 0.1, 0.01, None, True),
        "sparsify.steps": Range(1, 3, 1, 1),
    }
    found = described(CONTENT, choices)
    assert found["width"] == CONTENT["width"] and found["depth"] == {"_type": "choice", "_value": [1, 2]}
    assert found["prune.conv1.ratio"] == {"_type": "uniform", "_value": [0.0, 0.75]}
    assert found["sparsify.steps"] == {"_type": "choice", "_value": [1, 2, 3]}
    assert "train.learning_rate" not in found
