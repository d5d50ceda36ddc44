"""The spec knows the built-in names without loading what they name; here they are held against the tables."""

from __future__ import annotations

import pytest

from autoprune.compress import criteria, prune
from autoprune.errors import SpecError
from autoprune.search import samplers
from autoprune.spec import load_spec, sections, techniques
from autoprune.targets import BUILT_IN as TARGETS
from autoprune.targets.formats import FORMATS
from autoprune.task import BUILT_IN as TASKS


def test_the_names_are_those_of_the_tables() -> None:
    assert set(sections.TASKS) == set(TASKS)
    assert set(sections.TARGETS) == set(TARGETS)
    assert set(sections.FORMATS) == set(FORMATS)
    assert set(sections.SAMPLERS) == set(samplers.BUILT_IN)
    assert set(techniques.CRITERIA) == set(criteria.BUILT_IN)
    assert set(techniques.SCHEDULES) == set(prune.SCHEDULES)


def test_misspelt_names_are_reported_together_with_the_nearest() -> None:
    spec = {
        "task": "digist",
        "target": {"use": "onnxruntim"},
        "search": {"sampler": "tpee"},
        "budget": {"trials": 1},
    }
    with pytest.raises(SpecError) as caught:
        load_spec(spec)
    meant = [problem.split("did you mean ")[1] for problem in caught.value.problems]
    assert meant == ["'digits'?", "'onnxruntime'?", "'tpe'?"]
