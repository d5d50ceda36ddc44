"""One sparsity for each layer, or one for the network: what a spec may say, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.compress import techniques_of
from autoprune.compress.sparsify import Sparsify
from autoprune.errors import BadInput, SpecError
from autoprune.space import Options
from autoprune.spec import load_spec
from autoprune.spec.techniques import SparsifySpace


def test_the_scope_goes_from_the_spec_to_the_technique() -> None:
    spec = load_spec({"task": "digits", "space": {"sparsify": {"scope": "global"}}, "budget": {"trials": 1}})
    (technique,) = techniques_of(spec)
    assert isinstance(technique, Sparsify) and technique.scope == "global"


def test_a_section_is_the_same_after_it_was_written() -> None:
    space = SparsifySpace.model_validate({"scope": "global"})
    assert SparsifySpace.model_validate(space.model_dump()) == space
    assert SparsifySpace.model_validate({}).scope == "layer"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"scope": ["layer", "global"]},
            "space.sparsify.scope: got ['layer', 'global'], expected 'layer' or 'global'",
        ),
        (
            {"scope": "globl"},
            "space.sparsify.scope: got 'globl', expected 'layer' or 'global'; did you mean 'global'?",
        ),
        (
            {"scope": "global", "pattern": ["unstructured", "2:4"]},
            "space.sparsify.pattern: got '2:4' with scope: global, expected unstructured: "
            "N:M is a share of its own in each layer",
        ),
    ],
)
def test_other_scopes_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({"task": "digits", "space": {"sparsify": section}, "budget": {"trials": 1}})
    assert caught.value.problems == (message,)


def test_the_technique_refuses_it_as_well() -> None:
    with pytest.raises(
        BadInput, match=r"sparsify\.pattern: got 2:4 with scope global, expected unstructured"
    ):
        Sparsify(pattern=Options(("2:4",), "2:4"), scope="global")
