import math

import pytest

from autoprune.constraint import Constraint
from autoprune.report import readable


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 98.126, "98.13 %"),
        ("latency_ms", 0.08734, "0.0873 ms"),
        ("size_bytes", 41_234.0, "41.2 KB"),
        ("size_bytes", 812.0, "812 B"),
        ("size_bytes", 1.5e6, "1.5 MB"),
        ("macs", 4.1e6, "4.1 M"),
        ("params", 12.0, "12"),
        ("f1", 0.123456, "0.1235"),
        ("accuracy", None, "–"),
        ("accuracy", math.nan, "–"),
    ],
)
def test_a_figure_has_its_unit(metric, value, text):
    assert readable.figure(metric, value) == text


def test_a_relative_constraint_says_what_it_comes_to():
    size = Constraint.parse("size_bytes <= 25%")
    assert readable.limit(size, {"size_bytes": 80_000.0}) == "size_bytes <= 25% (≤ 20 KB)"
    assert readable.limit(Constraint.parse("latency_ms <= 2"), {}) == "latency_ms <= 2"


def test_a_duration_has_a_unit_that_fits():
    assert [readable.duration(s) for s in (8.2, 204, 9000)] == ["8.2 s", "3.4 min", "2.5 h"]


def test_a_point_is_summed_up_by_kind():
    point = {
        "architecture.depth": 2,
        "distill.kd_weight": 0.25,
        "prune.criterion": "l1",
        "prune.layer1.0.conv1.ratio": 0.1,
        "prune.layer2.0.conv1.ratio": 0.45,
        "quantize.stem.weight_bits": 8.0,
        "quantize.layer1.0.conv1.weight_bits": 8,
        "quantize.head.weight_bits": 4,
    }
    assert readable.summary(point) == [
        "depth 2 · kd_weight 0.25 · prune criterion l1",
        "prune ratio 0.10, 0.45",
        "weight bits 8 ×2, 4 ×1",
    ]


def test_equal_ratios_are_counted():
    assert readable.summary({f"prune.layer{i}.ratio": 0.5 for i in range(3)}) == ["prune ratio 0.50 ×3"]
    assert readable.summary({"prune.layer.ratio": 0.5}) == ["prune ratio 0.50"]


def test_many_ratios_become_their_range():
    (line,) = readable.summary({f"prune.layer{i}.ratio": i / 20 for i in range(20)})
    assert line == "prune ratio 0.00 to 0.95, mean 0.47 over 20 groups"


def test_the_budget_that_ends_the_search_first_counts():
    budget = {
        "trials": {"spent": 30, "limit": 60},
        "minutes": {"spent": 4.0, "limit": 5.0},
        "device_seconds": {"spent": 100.0, "limit": None},
    }
    assert readable.share_spent(budget) == 0.8
    assert readable.budget_left(budget) == "30 trials, 1 minutes"
    assert readable.budget_left({}) == "no limit" and readable.share_spent({}) == 0.0


def test_a_change_names_a_shared_unit_once():
    assert readable.change("latency_ms", 0.1707, 0.0532) == "0.171 → 0.0532 ms"
    assert readable.change("size_bytes", 1.2e6, 2e5) == "1.2 MB → 200 KB"
    assert readable.change("f1", 0.5, None) == "0.5 → –"
