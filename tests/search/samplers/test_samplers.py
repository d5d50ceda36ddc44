"""Samplers by name, by reference, or as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, TPESampler

from autoprune.constraint import Objective
from autoprune.errors import BadInput, UnresolvedReference
from autoprune.search.samplers import BUILT_IN, make_sampler
from autoprune.search.sampling import Sampling
from autoprune.space import Options, Range, Space
from autoprune.spec import load_spec

SPACE = Space({f"prune.{i}.ratio": Range(0.0, 0.8, 0.0) for i in range(4)} | {"bits": Options((4, 8), 8)})
OBJECTIVES = [Objective("a", "minimize"), Objective("b", "minimize")]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_samplers_propose_the_same_under_a_seed(name: str) -> None:
    def points() -> list[dict[str, object]]:
        told = Sampling(SPACE, OBJECTIVES, make_sampler(name, 3), {"a": 1.0, "b": 1.0})
        found = []
        for _ in range(30):
            number, point = told.ask()
            found.append(point)
            total = sum(float(value) for value in point.values())
            told.tell(number, {"a": total, "b": -total}, [total - 10.0])
        return found

    first = points()
    assert first == points() and len({str(point) for point in first}) > 15
    assert all(SPACE.problems_of(point) == [] for point in first)


def test_a_spec_accepts_every_built_in_name() -> None:
    for name in BUILT_IN:
        fields = {"task": "digits", "budget": {"trials": 1}, "search": {"sampler": name}}
        assert load_spec(fields).search.sampler == name
    assert isinstance(make_sampler("tpe", 0), TPESampler)
    assert isinstance(make_sampler("nsga2", 0), NSGAIISampler)


def test_a_users_own_sampler_is_taken_by_reference_or_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from optuna.samplers import RandomSampler\n"
        "class Mine(RandomSampler): ...\n"
        "class Bare(RandomSampler):\n"
        "    def __init__(self): super().__init__(seed=5)\n"
        "class Needy(RandomSampler):\n"
        "    def __init__(self, grid): super().__init__()\n"
        "ready = Bare()\n"
        "class NoSampler: ...\n"
    )
    for name in ("Mine", "Bare", "ready"):
        assert isinstance(make_sampler(f"mine.py:{name}", 0, tmp_path), BaseSampler)
    own = CmaEsSampler(seed=0)
    assert make_sampler(own, 0) is own
    with pytest.raises(BadInput, match="Needy cannot be made without arguments"):
        make_sampler("mine.py:Needy", 0, tmp_path)
    with pytest.raises(BadInput, match="not an optuna BaseSampler"):
        make_sampler("mine.py:NoSampler", 0, tmp_path)
    with pytest.raises(UnresolvedReference, match="did you mean 'tpe'"):
        make_sampler("tep", 0, tmp_path)
