"""Starting from a donor: weights put back unit by unit, refused where they do not fit, the same again from disk."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from prunable_networks import (
    Gate,
    Normed,
    PixelShuffled,
    Residual,
    Separable,
    SqueezeExcite,
    Tied,
    Transposed,
    UNet,
    example,
    make,
)
from safetensors.torch import load
from torch import nn

from autoprune.candidate import restore
from autoprune.evaluate import Evaluator
from autoprune.inheritance import Origin, heir_of, origin_of, put_back, settle
from autoprune.record import Donor, Evaluation, Request
from autoprune.space import Choices, Space
from autoprune.spec import load_spec
from autoprune.structure import Observed, analyse, prepared

KINDS = (Residual, Separable, SqueezeExcite, Gate, Transposed, Normed, Tied, UNet, PixelShuffled)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    from tiny_spec import TINY_SPEC

    changes = {"space": {k: TINY_SPEC["space"][k] for k in ("architecture", "prune", "quantize")}}
    made = Evaluator(load_spec({**TINY_SPEC, **changes, "search": {"rungs": [0, 1, 2]}}))
    made.attach_data(None)
    made.attach_reference(made.train_reference())
    return made


@pytest.fixture(scope="module")
def space(evaluator: Evaluator) -> Space:
    return Space.from_json(evaluator.describe()["choices"])


def pruned(space: Space, ratio: float, **changes: Any) -> dict[str, Any]:
    point = {**space.neutral(), **changes}
    return {name: ratio if name.endswith(".ratio") else value for name, value in point.items()}


def done(evaluator: Evaluator, request: Request) -> Evaluation:
    result = evaluator.evaluate(request)
    assert result.state == "finished", result.reason
    return result


@pytest.fixture(scope="module")
def donor(evaluator: Evaluator, space: Space) -> Evaluation:
    """A quarter of the channels gone, trained for an epoch."""
    return done(evaluator, Request(7, 1, pruned(space, 0.25)))


def test_weights_are_put_back_to_where_they_were_cut_out(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    assert donor.checkpoint is not None
    context = evaluator.context()
    origin = origin_of(donor.checkpoint, Choices(pruned(space, 0.25)), context)
    assert origin is not None and origin.removed == donor.structure["prune"]["removed"]
    for name, tensor in load(donor.checkpoint).items():
        there = origin.model.state_dict()[name]
        if tensor.is_floating_point():
            assert float(there.double().sum()) == pytest.approx(float(tensor.double().sum()), abs=1e-4)
            assert int((there != 0).sum()) == int((tensor != 0).sum())
    shapes = {name: tensor.shape for name, tensor in evaluator.reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in origin.model.state_dict().items()} == shapes


def test_the_same_point_inherits_exactly_what_the_donor_was(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    heir = Request(8, 0, pruned(space, 0.25), donor=Donor(7, 1, donor.checkpoint))
    result = done(evaluator, heir)
    assert result.structure["inherited_from"] == 7
    assert result.structure["prune"]["removed"] == donor.structure["prune"]["removed"]
    assert result.checkpoint is not None and donor.checkpoint is not None
    mine, theirs = load(result.checkpoint), load(donor.checkpoint)
    for name, value in mine.items():
        if "running" not in name and "num_batches" not in name:  # BatchNorm is recalibrated at rung 0
            assert torch.equal(value, theirs[name])


def test_a_smaller_one_loses_what_the_donor_lost_and_more(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    result = done(evaluator, Request(8, 0, pruned(space, 0.5), donor=Donor(7, 1, donor.checkpoint)))
    assert result.structure["inherited_from"] == 7
    for group, units in donor.structure["prune"]["removed"].items():
        assert set(units) < set(result.structure["prune"]["removed"][group])


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_larger_one_begins_as_what_the_donor_was(evaluator: Evaluator, space: Space, ratio: float) -> None:
    donor = done(evaluator, Request(7, 1, pruned(space, 0.6)))
    request = Request(8, 0, pruned(space, ratio), donor=Donor(7, 1, donor.checkpoint))
    result = done(evaluator, request)
    assert result.structure["inherited_from"] == 7
    for group, units in result.structure["prune"]["removed"].items():
        assert set(units) < set(donor.structure["prune"]["removed"][group])
    context = evaluator.context()
    larger = heir_of(request.donor, evaluator.techniques, Choices(request.choices), context)
    smaller, _ = restore(donor.checkpoint or b"", evaluator.techniques, evaluator.context())
    assert larger is not None
    torch.testing.assert_close(larger.eval()(evaluator.example), smaller(evaluator.example))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_changes_no_output(kind: type[nn.Module]) -> None:
    network, inputs = make(kind).double(), example(kind).double()
    found = analyse(network, inputs)
    network = prepared(network, inputs, found.way)
    lacked = {group.name: list(range(group.units // 2)) for group in found.free}
    own = {name: units[: len(units) // 2] for name, units in lacked.items()}
    donor, whole = copy.deepcopy(network), copy.deepcopy(network)
    Observed(donor, inputs).cut(lacked)
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.mul_(1.1)
    observed, before = Observed(whole, inputs), copy.deepcopy(network.state_dict())
    put_back(whole, donor.state_dict(), observed.places(lacked))
    larger = copy.deepcopy(whole)
    Observed(larger, inputs).cut(own)
    assert settle(larger, Origin(whole, lacked, observed, before), {"prune": {"removed": own}})
    assert sum(p.numel() for p in larger.parameters()) > sum(p.numel() for p in donor.parameters())
    torch.testing.assert_close(larger(inputs), donor(inputs))


def test_units_that_only_the_larger_one_has_are_trained(evaluator: Evaluator, space: Space) -> None:
    donor, point = done(evaluator, Request(7, 1, pruned(space, 0.6))), pruned(space, 0.0)
    asked = {rung: Request(8, rung, point, donor=Donor(7, 1, donor.checkpoint)) for rung in (0, 1)}
    before, after = (load(done(evaluator, asked[rung]).checkpoint or b"") for rung in (0, 1))
    removed = donor.structure["prune"]["removed"]
    layer = next(name for name in removed if f"{name}.weight" in before)
    units = list(removed[layer])
    assert (before[f"{layer}.weight"][units] != 0).any()
    assert (before[f"{layer}.weight"][units] != after[f"{layer}.weight"][units]).any()


def test_one_that_lacks_what_the_donor_has_and_has_what_it_lacks_starts_from_the_reference(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    weights, removed = donor.checkpoint or b"", donor.structure["prune"]["removed"]
    group, units = next((group, units) for group, units in removed.items() if len(units) > 1)
    origin = origin_of(weights, Choices(pruned(space, 0.25)), evaluator.context())
    assert origin is not None
    other = next(unit for unit in range(max(units) + 2) if unit not in units)
    own = {**removed, group: [*units[1:], other]}
    before = {name: tensor.clone() for name, tensor in origin.model.state_dict().items()}
    assert not settle(origin.model, origin, {"prune": {"removed": own}})
    assert all(torch.equal(tensor, before[name]) for name, tensor in origin.model.state_dict().items())


def test_masks_stay_masked_so_that_nothing_is_added_to_them(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    origin = origin_of(donor.checkpoint or b"", Choices(pruned(space, 0.25)), evaluator.context())
    assert origin is not None
    structure = {"prune": {"removed": {}}, "sparsify": {"layers": {}}}
    assert not settle(origin.model, origin, structure)
    assert settle(origin.model, origin, {"prune": {"removed": {}}})


def test_another_architecture_starts_from_the_reference(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    point = pruned(space, 0.25, **{"architecture.width": 4})
    result = done(evaluator, Request(8, 0, point, donor=Donor(7, 1, donor.checkpoint)))
    assert "inherited_from" not in result.structure
    assert result.checkpoint == done(evaluator, Request(8, 0, point)).checkpoint


@pytest.mark.parametrize("weights", [b"", b"no checkpoint", None])
def test_a_damaged_donor_is_left_alone(evaluator: Evaluator, space: Space, weights: bytes | None) -> None:
    result = done(evaluator, Request(8, 0, pruned(space, 0.5), donor=Donor(7, 1, weights)))
    assert "inherited_from" not in result.structure


def test_it_is_the_same_again_from_its_checkpoint_and_goes_on_from_there(
    evaluator: Evaluator, space: Space, donor: Evaluation
) -> None:
    point = pruned(space, 0.5)
    first = done(evaluator, Request(8, 1, point, donor=Donor(7, 1, donor.checkpoint)))
    again = done(evaluator, Request(8, 1, point, donor=Donor(7, 1, donor.checkpoint)))
    assert first.checkpoint == again.checkpoint and first.metrics["accuracy"] == again.metrics["accuracy"]
    assert first.checkpoint is not None
    context = evaluator.context()
    model, rung = restore(first.checkpoint, evaluator.techniques, context)
    assert rung == 1 and context.structure["inherited_from"] == 7
    assert all(torch.equal(value, load(first.checkpoint)[name]) for name, value in model.state_dict().items())
    on = done(evaluator, Request(8, 2, point, first.checkpoint))
    assert on.structure["inherited_from"] == 7


def test_a_trained_start_is_better_than_the_reference_before_any_training(
    evaluator: Evaluator, space: Space
) -> None:
    large = done(evaluator, Request(7, 2, pruned(space, 0.6)))
    point = pruned(space, 0.65)
    heir = done(evaluator, Request(8, 0, point, donor=Donor(7, 2, large.checkpoint)))
    plain = done(evaluator, Request(8, 0, point))
    assert heir.metrics["cross_entropy"] < 0.5 * plain.metrics["cross_entropy"]
