"""Lottery tickets: what survives starts again from where it came, and was worth finding."""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

import pytest
import torch
from gradual_tasks import TASKS, DigitsTask, accuracy, context, made, mlp, point, recovery, same

from autoprune.compress.gradual import Gradual
from autoprune.compress.prune import Prune
from autoprune.compress.sparsify import Sparsify
from autoprune.compress.sparsity import zeros_in
from autoprune.space import Choices, Options

TICKET = Options(("one_shot", "lottery_ticket"), "lottery_ticket")
TECHNIQUES = {"prune": Prune, "sparsify": Sparsify}


def technique(kind: str, **gradual: Any) -> Any:
    return TECHNIQUES[kind](schedule=TICKET, gradual=Gradual(**gradual))


def initial(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return TASKS[name]().model()


@pytest.mark.parametrize("network", TASKS)
def test_survivors_are_rewound_to_the_weights_that_the_reference_was_trained_from(network: str) -> None:
    used, where = technique("sparsify", rounds=2), context(network)
    ticket = made(used, point(used, network, 0.6), where, epochs=1, rest=False)
    first = initial(network).state_dict()
    for name, tensor in ticket.state_dict().items():
        if name.removesuffix(".weight") in where.structure["sparsify"]["layers"]:
            assert zeros_in(tensor) == pytest.approx(0.6, abs=0.02)
            assert torch.equal(tensor, first[name].masked_fill(tensor == 0, 0.0))
        else:
            assert torch.equal(tensor, first[name])


@pytest.mark.parametrize("network", TASKS)
def test_units_that_survive_are_rewound_too(network: str) -> None:
    used, where = technique("prune", rounds=2), context(network)
    ticket = made(used, point(used, network, 0.5), where, epochs=1, rest=False)
    assert same(ticket, used.restore(initial(network), where))
    assert where.structure["prune"]["criterion"] == "l1"


def test_the_first_round_prunes_the_trained_network_by_magnitude() -> None:
    used, where = technique("sparsify", rounds=1), context("mlp")
    ticket = made(used, point(used, "mlp", 0.8), where, rest=False)
    magnitude = where.reference[1].weight.abs()
    assert magnitude[ticket[1].weight != 0].min() >= magnitude[ticket[1].weight == 0].max()


def test_late_rewinding_goes_to_early_weights_and_not_to_the_first() -> None:
    used, where = technique("sparsify", rewind=0.25), context("mlp")
    where.recovery = recovery(used, where, 2.0)
    early = initial("mlp")
    recovery(used, where, 2.0).train(early, 0.25)
    ticket = used.apply(mlp(), Choices(point(used, "mlp", 0.6)), where)
    survives = ticket[1].weight != 0
    assert torch.equal(ticket[1].weight[survives], early[1].weight[survives])
    assert not torch.equal(ticket[1].weight[survives], initial("mlp")[1].weight[survives])
    record = where.structure["sparsify"]["ticket"]["rewind"]
    assert record == {"epochs": pytest.approx(0.5), "place": 250}
    assert where.recovery.left == pytest.approx(0.75 - 2 * 0.75 / 4)


@pytest.mark.parametrize("kind", TECHNIQUES)
@pytest.mark.parametrize("network", TASKS)
def test_the_same_seed_draws_the_same_ticket_and_its_zeros_stay(kind: str, network: str) -> None:
    found = []
    for _ in range(2):
        used, where = technique(kind, rounds=2), context(network)
        found.append((made(used, point(used, network, 0.6), where, epochs=1), where.structure[kind]))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert json.loads(json.dumps(found[0][1])) == found[0][1]
    for layer, plan in found[0][1].get("layers", {}).items():
        assert plan["realised"] == pytest.approx(plan["sparsity"], abs=0.02), layer


def test_a_weight_that_was_rewound_to_zero_is_trained_and_one_that_went_is_not() -> None:
    """A layer that begins at zero: the mask cannot be read off its weights."""

    class FromZero(DigitsTask):
        def model(self, **_: Any) -> torch.nn.Module:  # type: ignore[override]
            network = mlp()
            torch.nn.init.zeros_(network[5].weight)
            return network

    used, where = technique("sparsify", rounds=1), context("mlp")
    where.task = FromZero()
    model = made(used, point(used, "mlp", 0.8), where, epochs=1)
    assert zeros_in(model[5].weight) == pytest.approx(0.8, abs=0.01)
    magnitude = where.reference[5].weight.abs()
    assert magnitude[model[5].weight != 0].min() >= magnitude[model[5].weight == 0].max()


def test_comparing_leaves_the_candidate_as_it_is() -> None:
    found = {}
    for compare in (False, True):
        used, where = technique("sparsify", compare=compare), context("mlp")
        found[compare] = (
            made(used, point(used, "mlp", 0.6), where, epochs=1),
            where.structure["sparsify"]["ticket"],
        )
    assert same(found[False][0], found[True][0])
    looked = {"quality", "dense_quality", "trained", "reinitialised"}
    assert set(found[True][1]) - set(found[False][1]) == looked


def test_a_pretrained_network_is_rewound_to_its_pretrained_weights_and_redrawn_from_their_values() -> None:
    """A task of which every model is the same: what another draw leaves alone is shuffled."""
    where, used = context("mlp"), technique("sparsify", compare=True)
    where.task = DigitsTask()
    where.task.model = lambda: _copy(where.reference)  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    training = recovery(used, where, 1.0)
    aside = training.train_aside

    def watched(model: torch.nn.Module, on_step: Any = None) -> None:
        seen.append(model[1].weight.detach().clone())
        aside(model, on_step)

    training.train_aside = watched  # type: ignore[method-assign]
    where.recovery = training
    ticket = used.apply(_copy(where.reference), Choices(point(used, "mlp", 0.6)), where)
    dense, (kept, drawn) = where.reference[1].weight, seen
    assert torch.equal(ticket[1].weight, kept) and torch.equal(kept[kept != 0], dense[kept != 0])
    assert torch.equal(drawn == 0, kept == 0) and not torch.equal(drawn, kept)
    assert bool(torch.isin(drawn[drawn != 0], dense).all())


def _copy(network: torch.nn.Module) -> torch.nn.Module:
    made_again = mlp()
    made_again.load_state_dict(network.state_dict())
    return made_again


def test_the_ticket_beats_the_same_mask_from_other_weights() -> None:
    """A fifth of the weights of a perceptron, as in the paper's figure 1."""
    records = []
    for seed in range(3):
        used, where = technique("sparsify", compare=True), context("mlp", seed=seed)
        model = made(used, point(used, "mlp", 0.8), where, epochs=16)
        records.append({**where.structure["sparsify"]["ticket"], "candidate": accuracy(model, where)})
    ticket, other = (mean(record[name] for record in records) for name in ("trained", "reinitialised"))
    assert ticket > other + 3.0
    assert mean(record["candidate"] for record in records) == pytest.approx(ticket, abs=1.5)


def test_without_recovery_it_is_one_shot_by_magnitude() -> None:
    used, where = technique("prune"), context("mlp")
    model = used.apply(_copy(where.reference), Choices(point(used, "mlp", 0.5)), where)
    assert "ticket" not in where.structure["prune"]
    kept = [unit for unit in range(100) if unit not in where.structure["prune"]["removed"]["1"]]
    assert torch.equal(model[1].bias, where.reference[1].bias[kept])
