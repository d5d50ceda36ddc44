"""What is known of costs and damage before the first trial, and how much is asked for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import spearmanr
from tiny_spec import TINY_SPEC

from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.search.anchors import MOST, anchors, first_points
from autoprune.search.foreknown import foreknown
from autoprune.search.points import as_columns, check_points
from autoprune.search.preview import Plan, make_preview
from autoprune.search.prices import Prices
from autoprune.space import Space
from autoprune.spec import Spec, load_spec
from autoprune.spec.sections import PROXIES

FULL = {"rungs": [0, 1], "profile": "full"}


class Counting:
    """An evaluator in this process that counts what it is asked."""

    size = 2

    def __init__(self, spec: Spec) -> None:
        self.evaluator = Evaluator(spec)
        self.evaluator.attach_data(None)
        self.evaluator.attach_reference(self.evaluator.train_reference())
        self.asked: Counter[str] = Counter()

    def call(self, method: str, *arguments: Any) -> Any:
        self.asked[arguments[0] if method == "foresee" else method] += 1
        return getattr(self.evaluator, method)(*arguments)

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        return [self.call(method, *arguments) for arguments in calls]


def tiny(**changes: Any) -> Spec:
    search = {"rungs": [0, 1], **changes.pop("search", {})}
    return load_spec({**TINY_SPEC, "train": {"epochs": 2, "batch_size": 32}, "search": search, **changes})


def made_by(worker: Counting) -> dict[str, Any]:
    described = worker.call("describe")
    baseline = worker.call("price_point", Space.from_json(described["choices"]).neutral())
    return {**described, "baseline": {**baseline, "accuracy": 99.0, "latency_ms": 0.1}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def spec() -> Spec:
    return tiny(search=FULL, constraints=["macs <= 60%", "size_bytes <= 50%"])


@pytest.fixture(scope="module")
def profile(spec: Spec, cache: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(cache))
        worker = Counting(spec)
        made = made_by(worker)
        return {**made, "preview": make_preview(worker, spec, made)}


def test_costs_are_exact_and_sizes_nearly(spec: Spec, profile: dict[str, Any]) -> None:
    evaluator = Counting(spec).evaluator
    errors = profile["preview"]["errors"]
    assert errors["macs"] < 0.1 and errors["params"] < 0.1  # of architectures that are pruned as well
    space = Space.from_json(profile["choices"])
    points = list(check_points(space, 10, seed=5))
    predicted = Prices(profile["preview"]["prices"]).columns(as_columns(space, points))["size_bytes"]
    exact = [evaluator.price_point(point)["size_bytes"] for point in points]
    assert spearmanr(predicted, exact).statistic > 0.9  # such small files are half header
    assert json.loads(json.dumps(profile["preview"])) is not None


def test_every_choice_that_compresses_has_a_damage_that_grows(profile: dict[str, Any]) -> None:
    found = profile["preview"]["sensitivity"]
    expected = {n for n in profile["choices"] if n.endswith((".ratio", "_bits"))}
    assert set(found) == expected
    for name, pairs in found.items():
        neutral = profile["choices"][name]["neutral"]
        ordered = sorted(pairs, key=lambda pair: abs(pair[0] - neutral))
        assert ordered[0][1] == 0
        damages = [damage for _, damage in ordered]
        assert damages == sorted(damages)
    assert max(d for pairs in found.values() for _, d in pairs) > 0.01


def test_latency_is_predicted_from_a_table_that_is_kept(profile: dict[str, Any], cache: Path) -> None:
    preview = profile["preview"]
    assert (
        preview["rank_correlation"] > 0
    )  # how far above says benchmarks/README.md: this machine may be busy
    assert set(preview["prices"]["fits"]) == {"size_bytes", "latency_ms"}
    assert preview["errors"]["latency_ms"] > 0
    assert list(cache.glob("layers-*.json"))
    space = Space.from_json(profile["choices"])
    points = list(check_points(space, 8))
    assert (Prices(preview["prices"]).columns(as_columns(space, points))["latency_ms"] > 0).all()


def test_a_limit_on_latency_is_kept_by_prediction_as_far_as_that_can_be_trusted(
    profile: dict[str, Any],
) -> None:
    bounded = tiny(search=FULL, constraints=["latency_ms <= 50%"])
    half = 0.5 * profile["baseline"]["latency_ms"]
    for error, limits in [(0.2, {"latency_ms": (0.0, half)}), (0.6, {})]:
        preview = {**profile["preview"], "errors": {**profile["preview"]["errors"], "latency_ms": error}}
        known = foreknown(bounded, {**profile, "preview": preview})
        assert known.limits == limits
        assert known.errors == ({"latency_ms": pytest.approx(error)} if limits else {})


def test_a_later_search_on_the_same_network_asks_nothing_again(
    spec: Spec, profile: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(cache))
    worker = Counting(spec)
    assert make_preview(worker, spec, made_by(worker)) == profile["preview"]
    assert set(worker.asked) == {"describe", "price_point", "key"}


def test_other_weights_are_another_network(spec: Spec, profile: dict[str, Any]) -> None:
    worker, other = Counting(spec), Counting(spec)
    other.evaluator.reference.get_parameter("linear.weight").add_(0.1)
    assert worker.call("foresee", "key", profile["choices"]) != other.call(
        "foresee", "key", profile["choices"]
    )


def test_an_interrupted_profile_goes_on(spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    worker = Counting(tiny(search={"profile": "costs"}))
    made = made_by(worker)
    make_preview(worker, tiny(search={"profile": "costs"}), made)
    assert worker.asked["damage"] == 0 and worker.asked["price"] > 0
    before = worker.asked["price"]
    make_preview(worker, spec, made)
    assert worker.asked["damage"] > 0 and worker.asked["price"] == before


def test_how_much_is_asked_follows_from_the_spec_alone(profile: dict[str, Any]) -> None:
    space = Space.from_json(profile["choices"])

    def plan(**changes: Any) -> Plan:
        return Plan(tiny(**changes), space, profile, workers=2)

    short = plan(budget={"trials": 2})
    assert not (short.wants_costs or short.wants_damage or short.wants_latency)
    long = plan(budget={"minutes": 60})
    assert long.wants_costs and long.wants_damage and long.wants_latency
    costs = plan(budget={"minutes": 60}, search={"profile": "costs"})
    assert costs.wants_costs and not (costs.wants_damage or costs.wants_latency)
    asked = plan(budget={"trials": 2}, search={"profile": "full"})
    assert asked.wants_damage and asked.wants_latency
    only_size = plan(budget={"minutes": 60}, objectives={"accuracy": "maximize", "size_bytes": "minimize"})
    assert not only_size.wants_latency


def test_where_there_is_no_time_for_all_latency_comes_before_damage(profile: dict[str, Any]) -> None:
    space, seconds = Space.from_json(profile["choices"]), {"device_seconds": 300}
    plans = [
        Plan(tiny(budget=seconds), space, {**profile, "baseline": {"macs": macs}}, workers=1)
        for macs in (1e6, 1e8, 3e9)
    ]
    assert all(plan.wants_latency for plan in plans)
    assert [plan.wants_damage for plan in plans] == [True, True, False]
    assert plans[0].probes > plans[1].probes > plans[2].probes


def test_a_search_begins_with_planned_points_that_keep_the_limits(
    spec: Spec, profile: dict[str, Any]
) -> None:
    space = Space.from_json(profile["choices"])
    study: Any = SimpleNamespace(space=space, spec=spec, profile=profile)
    points = first_points(study)
    assert 5 <= len(points) <= MOST
    assert all(space.problems_of(point) == [] for point in points)
    known = foreknown(spec, profile)
    assert known.prices is not None
    limit = 0.6 * profile["baseline"]["macs"] * 1.15
    assert all(known.prices(point)["macs"] <= limit for point in points)
    uniform = anchors(space, space.neutral())
    assert any(point not in uniform for point in points[:2])
    study.profile = {**profile, "preview": {}}
    assert first_points(study) == uniform


def test_a_network_that_cannot_be_looked_into_is_searched_without(
    spec: Spec, profile: dict[str, Any]
) -> None:
    class Broken(Counting):
        def call(self, method: str, *arguments: Any) -> Any:
            if arguments and arguments[0] == "terms":
                raise ValueError("an odd network")
            return super().call(method, *arguments)

    found = make_preview(Broken(spec), spec, profile)
    assert found == {"reason": "ValueError: an odd network"} or "prices" in found


def test_an_architecture_is_scored_fresh_and_once(spec: Spec) -> None:
    evaluator = Counting(spec).evaluator
    found = evaluator.foresee("scores", {"width": 4})
    assert found == evaluator.foresee("scores", {"width": 4}) and set(found) == {"params", *PROXIES}
    assert found["params"] < evaluator.foresee("scores", {"width": 8})["params"]
    assert evaluator.foresee("scores", {"width": -1}) is None


def test_an_evaluation_records_what_proxies_said() -> None:
    evaluator = Counting(tiny(search={"proxy": "auto"})).evaluator
    point = Space.from_json(evaluator.describe()["choices"]).neutral()
    found = evaluator.evaluate(Request(0, 0, point))
    assert found.state == "finished" and set(found.scores) == {"params", *PROXIES}
    assert found.seconds["score"] > 0


def test_a_rounded_network_is_evaluated_without_rounding_too() -> None:
    evaluator = Counting(tiny()).evaluator
    whole = {**Space.from_json(evaluator.describe()["choices"]).neutral(), "quantize.quantizer": "ptq"}
    rounded = {name: 4 if name.endswith(".weight_bits") else value for name, value in whole.items()}
    found, float_one = (evaluator.evaluate(Request(0, 0, point)) for point in (rounded, whole))
    assert found.unquantized["accuracy"] == pytest.approx(float_one.metrics["accuracy"])
    assert not float_one.unquantized
    assert found.structure["quantize"]["layers"]  # what was built is what is on record
    aware = evaluator.evaluate(Request(1, 1, {**rounded, "quantize.quantizer": "qat"}))
    assert aware.state == "finished" and not aware.unquantized  # trained to be rounded
