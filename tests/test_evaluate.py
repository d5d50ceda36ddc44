"""One candidate, from choices to measured figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_task import TinyNet, TinyTask, bars
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from autoprune.errors import RunFolderError, SpecError, TaskError
from autoprune.evaluate import Evaluator
from autoprune.record import Evaluation, Request
from autoprune.space import Space
from autoprune.spec import load_spec
from autoprune.targets import Measurement
from autoprune.task import Budget, ClassificationTask, Data


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return {}


@pytest.fixture
def evaluator(tiny_spec: dict[str, Any], trained: dict[str, Any]) -> Evaluator:
    return make_evaluator(tiny_spec, trained)


def make_evaluator(spec: dict[str, Any], trained: dict[str, Any]) -> Evaluator:
    made = Evaluator(load_spec(spec))
    made.attach_data(None)
    if "weights" not in trained:
        trained["weights"] = made.train_reference()
    made.attach_reference(trained["weights"])
    return made


@pytest.fixture
def space(evaluator: Evaluator) -> Space:
    return Space.from_json(evaluator.describe()["choices"])


def compressed(space: Space) -> dict[str, Any]:
    """Half of the channels, eight bits everywhere."""
    point = space.neutral()
    for name in space:
        if name.endswith(".ratio"):
            point[name] = 0.5
        elif name.endswith("_bits"):
            point[name] = 8
    return point


def done(evaluation: Evaluation) -> Evaluation:
    assert evaluation.state == "finished", evaluation.reason
    return evaluation


def test_the_space_joins_all_parts(space: Space) -> None:
    parts = {name.split(".")[0] for name in space}
    assert parts == {"architecture", "prune", "distill", "quantize"}
    assert any("block" in name for name in space)


def test_the_neutral_point_is_the_reference(evaluator: Evaluator, space: Space) -> None:
    result = done(evaluator.evaluate(Request(0, 0, space.neutral(), epochs=0.0)))
    assert result.metrics["accuracy"] > 90
    assert result.metrics["params"] == sum(p.numel() for p in evaluator.reference.parameters())
    assert result.metrics["latency_ms"] > 0


def test_a_compressed_candidate_is_smaller_and_says_what_it_became(
    evaluator: Evaluator, space: Space
) -> None:
    whole = done(evaluator.evaluate(Request(0, 0, space.neutral())))
    small = done(evaluator.evaluate(Request(1, 0, compressed(space))))
    assert small.metrics["params"] < whole.metrics["params"]
    assert small.metrics["size_bytes"] < whole.metrics["size_bytes"] / 2
    assert small.structure["prune"]["widths"]["stem.0"] == 4
    assert {layer["weight_bits"] for layer in small.structure["layers"]} == {8}


def test_a_latency_is_measured_once_for_a_structure_unless_it_was_unstable(
    evaluator: Evaluator, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([Measurement(3.0, unstable=True), Measurement(2.0)])
    monkeypatch.setattr(evaluator.target, "measure", lambda *_: next(found))
    results = [done(evaluator.evaluate(Request(number, 0, space.neutral()))) for number in range(3)]
    assert [result.metrics["latency_ms"] for result in results] == [3.0, 2.0, 2.0]


def test_a_rung_later_it_goes_on_from_its_checkpoint(evaluator: Evaluator, space: Space) -> None:
    point = compressed(space)
    first = done(evaluator.evaluate(Request(0, 0, point)))
    continued = done(evaluator.evaluate(Request(0, 1, point, first.checkpoint)))
    at_once = done(evaluator.evaluate(Request(1, 1, point)))
    assert continued.checkpoint is not None
    assert continued.metrics["accuracy"] == at_once.metrics["accuracy"] > 80
    assert continued.structure["prune"] == at_once.structure["prune"]


def test_quantization_aware_training_and_distillation_run_together(
    evaluator: Evaluator, space: Space
) -> None:
    point = {**compressed(space), "quantize.quantizer": "qat", "distill.kd_weight": 0.5}
    result = done(evaluator.evaluate(Request(0, 1, point)))
    assert result.metrics["accuracy"] > 80
    assert {"quantize.quantizer", "distill.kd_weight", "distill.temperature"} <= set(result.read)


def test_choices_that_do_not_matter_are_not_read(evaluator: Evaluator, space: Space) -> None:
    point = {**space.neutral(), "architecture.depth": 1}
    result = done(evaluator.evaluate(Request(0, 0, point)))
    assert "prune.criterion" not in result.read
    assert "distill.temperature" not in result.read
    assert not any(name.startswith("prune.block") for name in result.read)


def test_the_same_request_gives_the_same_candidate(evaluator: Evaluator, space: Space) -> None:
    one, other = (done(evaluator.evaluate(Request(0, 1, compressed(space)))) for _ in range(2))
    assert one.checkpoint == other.checkpoint
    assert one.metrics["accuracy"] == other.metrics["accuracy"]


def test_what_breaks_a_computable_constraint_is_never_trained(
    tiny_spec: dict[str, Any], trained: dict[str, Any]
) -> None:
    evaluator = make_evaluator({**tiny_spec, "constraints": ["params <= 50%"]}, trained)
    evaluator.attach_baseline({"params": 1000.0})
    space = Space.from_json(evaluator.describe()["choices"])
    result = evaluator.evaluate(Request(0, 1, space.neutral()))
    assert result.state == "rejected" and "params <= 50%" in result.reason
    assert "train" not in result.seconds and result.checkpoint is None


def test_what_the_target_cannot_run_is_never_built(evaluator: Evaluator, space: Space) -> None:
    result = evaluator.evaluate(Request(0, 0, {**space.neutral(), "quantize.linear.activation_bits": 4}))
    assert result.state == "rejected" and "4-bit" in result.reason and result.seconds == {"total": 0}


def test_choices_that_give_no_network_are_rejected_by_name(evaluator: Evaluator, space: Space) -> None:
    result = evaluator.evaluate(Request(0, 0, {**space.neutral(), "architecture.width": -1}))
    assert result.state == "rejected" and "width=-1" in result.reason


def test_what_goes_wrong_is_recorded_with_its_stage(evaluator: Evaluator, space: Space) -> None:
    broken = evaluator.evaluate(replace(Request(0, 1, space.neutral()), checkpoint=b"no checkpoint at all"))
    assert broken.state == "failed" and broken.reason.startswith("build: RunFolderError")
    assert "checkpoint" in broken.reason


def test_an_architecture_option_that_the_model_lacks_is_named(
    tiny_spec: dict[str, Any], trained: dict[str, Any]
) -> None:
    tiny_spec["space"]["architecture"] = {"widht": [4, 8]}
    with pytest.raises(SpecError, match="did you mean 'width'"):
        make_evaluator(tiny_spec, trained).describe()


def test_a_reference_of_another_model_is_refused(evaluator: Evaluator) -> None:
    from safetensors.torch import save

    with pytest.raises(RunFolderError, match="does not fit"):
        evaluator.attach_reference(save({"x": torch.zeros(1)}))


def test_data_that_raises_is_the_tasks_fault(tiny_spec: dict[str, Any]) -> None:
    evaluator = Evaluator(load_spec(tiny_spec))
    evaluator.task.data = lambda: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(TaskError, match="ZeroDivisionError"):
        evaluator.load_data()


def test_use_before_data_and_reference_is_a_plain_error(tiny_spec: dict[str, Any]) -> None:
    evaluator = Evaluator(load_spec(tiny_spec))
    with pytest.raises(RuntimeError, match="attach_data"):
        _ = evaluator.data
    with pytest.raises(RuntimeError, match="attach_reference"):
        _ = evaluator.reference


def test_seconds_per_epoch_is_a_positive_estimate(evaluator: Evaluator) -> None:
    assert 0 < evaluator.seconds_per_epoch() < 60


def test_frozen_layers_keep_the_weights_of_the_reference(tiny_spec: dict[str, Any]) -> None:
    from safetensors.torch import load

    tiny_spec["train"]["freeze"] = ["stem"]
    made = make_evaluator(tiny_spec, {})
    fresh = TinyTask().model().state_dict()
    assert made.reference.stem[0].weight.shape == fresh["stem.0.weight"].shape
    before = made.reference.stem[0].weight
    point = Space.from_json(made.describe()["choices"]).neutral()
    after = load(done(made.evaluate(Request(0, 1, point))).checkpoint or b"")
    assert torch.equal(after["stem.0.weight"], before)
    assert not torch.equal(after["linear.weight"], made.reference.linear.weight)


def test_a_frozen_layer_that_is_not_there_is_named(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["train"]["freeze"] = ["stemm.*"]
    with pytest.raises(SpecError, match="train.freeze: 'stemm.\\*' names no layer of the model"):
        make_evaluator(tiny_spec, {})


def test_a_task_may_train_itself(tiny_spec: dict[str, Any]) -> None:
    budgets: list[Budget] = []

    def fit(model: nn.Module, data: Data, budget: Budget) -> nn.Module:
        budgets.append(budget)
        optimizer = torch.optim.SGD(model.parameters(), budget.learning_rate, momentum=0.9)
        for batch in data.train.batches(budget.batch_size, shuffle=budget.seed):
            optimizer.zero_grad()
            budget.loss(model(batch.inputs), batch).backward()
            optimizer.step()
        return model

    spec = load_spec({**tiny_spec, "train": {**tiny_spec["train"], "compile": True}})
    task = TinyTask()
    task.fit = fit  # type: ignore[attr-defined]
    made = Evaluator(spec, task)
    made.attach_data(None)
    made.attach_reference(made.train_reference())
    space = Space.from_json(made.describe()["choices"])
    point = {**compressed(space), "quantize.quantizer": "qat", "distill.kd_weight": 1.0}
    result = done(made.evaluate(Request(0, 1, point)))
    assert [budget.epochs for budget in budgets] == [3, 1]
    assert result.metrics["accuracy"] > 50
    assert result.structure["train"] == {"compiled": "not compiled: the task trains itself"}


def test_what_is_odd_about_the_model_is_in_the_description(tiny_spec: dict[str, Any]) -> None:
    made = make_evaluator(tiny_spec, {})
    assert made.describe()["warnings"] == []


def test_a_reference_with_computed_weights_is_trained_as_it_is_and_kept_plain(
    tiny_spec: dict[str, Any],
) -> None:
    def normed(width: int = 8, depth: int = 1) -> nn.Module:
        network = TinyNet(width, depth)
        spectral_norm(network.stem[0])
        return network

    task = ClassificationTask(normed, bars, architecture={})
    evaluator = Evaluator(load_spec(tiny_spec), task)
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    names = set(evaluator.reference.state_dict())
    assert "stem.0.weight" in names and not any("parametrizations" in name for name in names)
    assert evaluator.seconds_per_epoch() > 0.0


def unrunnable(spec: dict[str, Any]) -> list[str]:
    made = Evaluator(load_spec(spec))
    made.attach_data(None)
    return made.unrunnable()


def test_bits_that_were_asked_for_and_cannot_run_are_refused(tiny_spec: dict[str, Any]) -> None:
    asked = {**tiny_spec, "space": {"quantize": {"weight_bits": [4, 9, 32], "activation_bits": [4, 8]}}}
    assert unrunnable(asked) == [
        "space.quantize.weight_bits: the target cannot run 9 bits; it takes 2, 3, 4, 5, 6, 7, 8, 16, 32",
        "space.quantize.activation_bits: the target cannot run 4 bits; it takes 8, 32",
    ]
    by_default = {**tiny_spec, "space": {"quantize": {}}, "target": "fpga"}
    assert unrunnable(by_default) == []


def test_formats_that_cannot_be_written_are_refused_before_the_search(
    tiny_spec: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    asked = {**tiny_spec, "export": ["onnx", "hls4ml"]}
    (line,) = unrunnable(asked)
    assert line.startswith("export: hls4ml: hls4ml needs an environment of its own")
    monkeypatch.setattr("autoprune.targets.formats.python_of", lambda name: name)
    (line,) = unrunnable(asked)
    assert line.startswith("export: hls4ml: hls4ml needs fixed-point numbers in every layer, and stem.0")
    assert unrunnable({**tiny_spec, "export": "onnx"}) == []
