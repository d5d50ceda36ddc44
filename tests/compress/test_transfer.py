"""Transfer: the first layers stay as they are, the head always trains, and pruned features are worth taking along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_networks import Untraceable
from tiny_task import TinyTask
from torch import nn

from autoprune.candidate import restore
from autoprune.compress.transfer import FROZEN, Transfer, body_of
from autoprune.contracts import technique_tests
from autoprune.deployed import lift
from autoprune.errors import SpecError
from autoprune.evaluate import Evaluator
from autoprune.export.artifact import Contents, write_artifact
from autoprune.record import Evaluation, Request
from autoprune.space import Choices
from autoprune.spec import load_spec
from autoprune.targets import load_target
from autoprune.task import ClassificationTask, Data, evaluate_metrics, load_task, make_data
from autoprune.train import TrainSettings, train

IMAGE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    """A dict goes in; positions and a class token belong to no layer; the embedding is tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 20, bias=False)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.words = nn.Embedding(20, 8)
        self.places = nn.Parameter(torch.randn(1, 6, 8))
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.words(ids) + self.places))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out, self.second = nn.Linear(8, 3), nn.LSTM(8, 8, batch_first=True)
        self.first = nn.GRU(6, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.second(self.first(x)[0])[0][:, -1])


class Branches(nn.Module):
    """Two outputs, the first of which is made first."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.deep = nn.Linear(6, 8), nn.Linear(8, 8)
        self.early, self.late = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.body(x))
        early = self.early(x)
        return early, self.late(torch.relu(self.deep(x)))


@pytest.mark.parametrize(
    ("make", "example", "layers"),
    [
        (lambda: TinyTask().model(), IMAGE, ["stem.0", "block.0", "block.2"]),
        (lambda: lift(TinyTask().model(), IMAGE), IMAGE, ["stem.0", "block.0", "block.2"]),
        (
            Words,
            {"ids": torch.zeros(1, 6, dtype=torch.long)},
            [
                "places",
                "encoder.self_attn",
                "encoder.self_attn.out_proj",
                "encoder.linear1",
                "encoder.linear2",
            ],
        ),
        (Recurrent, torch.zeros(1, 4, 6), ["first", "second"]),
        (Branches, torch.randn(1, 6), ["body", "deep"]),
        (Untraceable, torch.randn(1, 6), ["first"]),
        (lambda: nn.Sequential(nn.Linear(6, 2)), torch.randn(1, 6), []),
        (lambda: nn.Linear(6, 2), torch.randn(1, 6), []),
    ],
)
def test_layers_stand_in_the_order_in_which_they_run_without_heads(
    make: Any, example: Any, layers: list[str]
) -> None:
    model = make()
    body = body_of(model, example)
    assert list(body) == layers
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameters in body.values() for parameter in parameters} <= own
    assert list(Transfer().choices(model, example, None)) == ([FROZEN] if layers else [])


def test_norms_belong_to_the_layer_before_them() -> None:
    model = TinyTask().model()
    assert [id(p) for p in body_of(model, IMAGE)["stem.0"]] == [id(p) for p in model.stem.parameters()]


def test_it_keeps_the_contract_of_a_technique() -> None:
    for test in technique_tests(Transfer(), TinyTask(), load_target("onnxruntime")):
        test()


# -- in a search -----------------------------------------------------------------------------------------------------


def spec_of(task: Any, space: Mapping[str, Any], **more: Any) -> Any:
    return load_spec(
        {
            "name": "transfer",
            "task": task,
            "space": {"transfer": {"frozen": [0.0, 1.0]}, **space},
            "target": {"use": "onnxruntime", "rounds": 2, "block_ms": 1.0, "channel_multiple": 1},
            "train": {"epochs": 1, "batch_size": 32, **more},
            "budget": {"trials": 2},
            "search": {"rungs": [0, 0.5, 1]},
        }
    )


def evaluator_of(space: Mapping[str, Any], **more: Any) -> Evaluator:
    path = f"{Path(__file__).parents[1] / 'tiny_task.py'}:TinyTask"
    evaluator = Evaluator(spec_of(path, space, **more))
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    return evaluator


def evaluated(evaluator: Evaluator, rung: int, **point: Any) -> Evaluation:
    result = evaluator.evaluate(Request(0, rung, point))
    assert result.state == "finished", result.reason
    return result


def weights(evaluator: Evaluator, result: Evaluation) -> dict[str, torch.Tensor]:
    return restore(result.checkpoint or b"", evaluator.techniques, evaluator.context())[0].state_dict()


EVERYTHING = {
    "prune": {"ratio": [0.0, 0.75]},
    "factorize": {"rank": [0.2, 1.0]},
    "quantize": {"weight_bits": [8, 32], "activation_bits": [8, 32], "aware": ["ptq", "qat"]},
}


@pytest.mark.parametrize("aware", ["ptq", "qat"])
def test_frozen_layers_are_cut_factorized_and_rounded_but_not_trained(aware: str) -> None:
    evaluator = evaluator_of(EVERYTHING)
    neutral = {name: choice["neutral"] for name, choice in evaluator.describe()["choices"].items()}
    point = {name: 0.5 for name in neutral if name.endswith("ratio")}
    point |= {name: 8 for name in neutral if name.endswith("_bits")}
    point |= {"factorize.block.0.rank": 0.4, FROZEN: 0.7}
    quantizer = next(name for name in neutral if name in ("quantize.aware", "quantize.quantizer"))
    point = {**neutral, **point, quantizer: aware}
    before = weights(evaluator, evaluated(evaluator, 0, **point))
    result = evaluated(evaluator, 2, **point)
    after = weights(evaluator, result)
    assert before["stem.0.weight"].shape[0] < 8 and "block.0.1.weight" in before
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    frozen = result.structure["transfer"]["frozen"]
    assert len(frozen) == 3  # of stem.0, the two halves of block.0 and block.2
    assert not any(name.startswith(("stem.0", "stem.1", "block.0")) for name in changed)
    assert {"block.2.weight", "linear.weight"} <= changed


def test_without_training_it_is_not_read_and_without_a_share_nothing_is_frozen() -> None:
    evaluator = evaluator_of({})
    assert FROZEN not in evaluated(evaluator, 0, **{FROZEN: 0.7}).read
    result = evaluated(evaluator, 1, **{FROZEN: 0.0})
    assert result.read == {FROZEN: 0.0} and "transfer" not in result.structure


def test_the_next_stretch_of_a_stored_candidate_freezes_the_same() -> None:
    evaluator = evaluator_of({})
    whole = evaluator.evaluate(Request(0, 2, {FROZEN: 0.6}))
    first = evaluator.evaluate(Request(0, 1, {FROZEN: 0.6}))
    second = evaluator.evaluate(Request(0, 2, {FROZEN: 0.6}, first.checkpoint))
    assert whole.structure["transfer"] == second.structure["transfer"]
    ours, theirs = weights(evaluator, whole), weights(evaluator, second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_something_always_trains() -> None:
    evaluator = evaluator_of({}, freeze=["linear", "stem"])
    result = evaluated(evaluator, 2, **{FROZEN: 1.0})
    assert result.structure["transfer"]["frozen"] == ["stem.0", "block.0"]


def test_it_is_refused_where_nothing_is_trained() -> None:
    with pytest.raises(SpecError, match=r"space.transfer: got something to train for"):
        load_spec(
            {
                "name": "n",
                "task": "digits",
                "space": {"transfer": True},
                "budget": {"trials": 1},
                "search": {"rungs": [0]},
            }
        )


@pytest.mark.parametrize("frozen", [[0.0, 1.5], "all", -0.1])
def test_a_share_is_a_share(frozen: Any) -> None:
    with pytest.raises(SpecError, match=r"space.transfer.frozen: .*expected a number from 0 to 1"):
        load_spec(
            {
                "name": "n",
                "task": "digits",
                "space": {"transfer": {"frozen": frozen}},
                "budget": {"trials": 1},
            }
        )


# -- what it is worth ------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(1, 12), *block(12, 12), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 5),
    )  # fmt: skip


def half(low: int, train_examples: int | None = None) -> Data:
    """Digits `low` to `low + 4` as classes 0 to 4; the last 300 are tested on."""
    x, y = load_digits(return_X_y=True)
    chosen = (y >= low) & (y < low + 5)
    x, y = (x[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8), y[chosen] - low
    rest = slice(None, train_examples or -300)
    return make_data((x[rest], y[rest]), (x[-300:], y[-300:]), (x[-300:], y[-300:]))


class Low(ClassificationTask):
    def __init__(self) -> None:
        super().__init__(network, half(0))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network trained on digits 0 to 4, pruned by half, in eight bits."""
    spec = spec_of(
        "tests:none", {"prune": {"ratio": [0.0, 0.75]}, "quantize": {"weight_bits": [8]}}, epochs=6
    )
    evaluator = Evaluator(spec, task=Low())
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    neutral = {name: choice["neutral"] for name, choice in evaluator.describe()["choices"].items()}
    point = {name: 0.5 if name.endswith("ratio") else value for name, value in neutral.items()}
    point |= {name: 8 for name in neutral if name.endswith("_bits")}
    result = evaluator.evaluate(Request(0, 2, point))
    assert result.metrics["accuracy"] > 90
    context = evaluator.context()
    model, _ = restore(result.checkpoint or b"", evaluator.techniques, context)
    deployed, runnable = evaluator.deploy(model, Choices(point), context)
    metrics: dict[str, Any] = {"search": {}, "export": {}, "baseline": {}}
    folder = tmp_path_factory.mktemp("transfer") / "out"
    return write_artifact(
        folder,
        Contents(
            deployed,
            evaluator.example,
            runnable.files,
            context.structure,
            metrics,
            {"name": "low", "input": {}},
        ),
    )


def accuracy(model: nn.Module, data: Data, seed: int, rate: float, frozen: float = 0.0) -> float:
    """Test accuracy after a hundred steps."""
    task: Any = ClassificationTask(lambda: model, data)
    context: Any = type("Context", (), {"data": data, "structure": {}})
    settings = TrainSettings(batch_size=10, learning_rate=rate)
    with Transfer().watch(model, Choices({FROZEN: frozen}), context):
        train(model, task, data.train, epochs=20, settings=settings, seed=seed)
    return evaluate_metrics(model, task, data.test)["accuracy"]


def redrawn(model: nn.Module) -> nn.Module:
    """The same structure with fresh weights."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


def test_pruned_features_learn_the_other_digits_from_fewer_examples_than_none(artifact: Path) -> None:
    """Each at the learning rate that is best for it, of 0.005, 0.02, 0.05, 0.1 and 0.2, as tried once."""
    task = load_task("classification", artifact.parent, {"model": "out/", "data": half(5, 50), "classes": 5})
    assert task.model().get_submodule("0").out_channels == 6  # cut, and it stayed so
    data, transferred, frozen, scratch = task.data(), [], [], []
    for seed in range(3):
        torch.manual_seed(seed)
        transferred.append(accuracy(task.model(), data, seed, rate=0.02))
        frozen.append(accuracy(task.model(), data, seed, rate=0.05, frozen=0.67))
        scratch.append(accuracy(redrawn(task.model()), data, seed, rate=0.2))
    assert np.mean(transferred) > np.mean(scratch) + 1
    assert np.mean(frozen) > np.mean(scratch) + 4
