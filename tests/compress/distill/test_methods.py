"""Every method of distillation in training: what it does, what it leaves alone, what it is worth, what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from tiny_spec import TINY_SPEC
from torch import fx, nn

from autoprune.compress.distill import Distill
from autoprune.compress.distill.logits import averaged, averaged_labels
from autoprune.compress.fake_quantize import wrap_for_training
from autoprune.compress.prune import Prune
from autoprune.compress.technique import Context
from autoprune.errors import ArtifactError, ModelError, TaskError
from autoprune.evaluate import Evaluator
from autoprune.export.artifact import Contents, write_artifact
from autoprune.record import Request
from autoprune.space import Choices, Options, Space
from autoprune.spec import load_spec
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.task import (
    ArraySplit,
    Batch,
    Budget,
    ClassificationTask,
    Data,
    MultiLabelTask,
    evaluate_metrics,
    example_inputs,
    make_data,
)
from autoprune.train import TrainSettings, train

METHODS = ("logits", "dkd", "hints", "attention_transfer", "self")
SETTINGS = TrainSettings(batch_size=32, learning_rate=0.05)


def network(width: int = 8) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in ((1, width), (width, width), (width, width)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *parts[:6], nn.MaxPool2d(2), *parts[6:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )


def digits() -> Data:
    x, y = load_digits(return_X_y=True)
    return make_data(((x / 16).astype(np.float32).reshape(-1, 1, 8, 8), y))


DATA = digits()


def context_of(reference: nn.Module, data: Data = DATA, seed: int = 0) -> Context:
    task = ClassificationTask(network, data)
    return Context(task, data, OnnxRuntime(), reference, seed=seed, settings=SETTINGS)


def technique(*methods: str, **settings: Any) -> Distill:
    return Distill(method=Options(methods, methods[0]), **settings)


def point(method: str, weight: float = 0.5, hint_weight: float = 1.0, **others: Any) -> Choices:
    given = {
        "method": method,
        "kd_weight": weight,
        "hint_weight": hint_weight,
        "temperature": 4.0,
        "beta": 4.0,
    }
    return Choices({f"distill.{name}": value for name, value in {**given, **others}.items()})


def taught(
    student: nn.Module,
    distill: Distill,
    choices: Choices,
    context: Context,
    epochs: float = 0.1,
    **options: Any,
) -> nn.Module:
    """The student after a stretch of training, itself."""

    def loss(outputs: Any, batch: Batch, value: torch.Tensor) -> torch.Tensor:
        return distill.loss(outputs, batch, value, choices, context)

    settings = TrainSettings(**{"batch_size": 32, "learning_rate": 0.05, **options})
    with distill.watch(student, choices, context) as along:
        train(
            student,
            context.task,
            context.data.train,
            epochs=epochs,
            settings=settings,
            loss=loss,
            along=along,
            on_step=lambda step, total: distill.on_step(student, step, total),
            seed=context.seed,
        )
    return student


def reference_of(width: int = 8) -> nn.Module:
    torch.manual_seed(1)
    return network(width).eval().requires_grad_(False)


@pytest.mark.parametrize("method", METHODS)
def test_a_stretch_is_deterministic_and_leaves_the_teacher_alone(method: str) -> None:
    reference = reference_of()
    before = copy.deepcopy(reference.state_dict())
    students = []
    for draws in (1, 2):
        student = network(4)
        student.load_state_dict({n: torch.full_like(t, 0.1) for n, t in student.state_dict().items()})
        torch.rand(draws)  # what others draw changes nothing
        students.append(taught(student, technique(method), point(method), context_of(reference)))
    one, other = (student.state_dict() for student in students)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(before[name], value) for name, value in reference.state_dict().items())
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert not any(m._forward_hooks for net in (reference, *students) for m in net.modules())


@pytest.mark.parametrize("method", ["logits", "dkd", "hints", "attention_transfer"])
def test_a_student_that_is_its_teacher_learns_nothing_from_it(method: str) -> None:
    reference = reference_of()
    student, here = copy.deepcopy(reference), context_of(reference)
    distill, choices = technique(method), point(method, 1.0)
    batch = next(DATA.train.batches(32))
    with distill.watch(student, choices, here):
        value = distill.loss(student(batch.inputs), batch, torch.tensor(7.0), choices, here)
    # Ridge regression keeps a projection slightly off.
    assert value.item() == pytest.approx(0.0, abs=2e-3 if method == "hints" else 1e-5)


def test_features_alone_ask_for_no_temperature_and_labels_alone_for_nothing() -> None:
    reference, here = reference_of(), context_of(reference_of())
    choices = point("hints", 0.0)
    taught(network(4), technique("logits", "hints"), choices, here)
    assert set(choices.read) == {"distill.kd_weight", "distill.method", "distill.hint_weight"}
    assert here.structure["distill"]["layers"] == {"reference": ["2", "6", "11"]}
    choices = point("logits", 0.0)
    taught(network(4), technique("logits", "dkd"), choices, context_of(reference))
    assert set(choices.read) == {"distill.kd_weight"}


@pytest.mark.parametrize("method", ["hints", "attention_transfer"])
@pytest.mark.parametrize("form", ["graph", "qat", "half", "pruned"])
def test_features_are_compared_in_whatever_is_trained(method: str, form: str) -> None:
    reference = reference_of()
    student, here, options = network(4), context_of(reference), {}
    example = example_inputs(DATA)
    if form == "graph":
        student = fx.symbolic_trace(student)  # type: ignore[assignment]
    elif form == "qat":
        student = wrap_for_training(student, {"0": (4, 8), "3": (4, 8), "7": (4, 8)}, example)  # type: ignore[assignment]
    elif form == "half":
        options = {"precision": "bfloat16"}
    else:
        student = pruned(reference, here, 0.5)  # type: ignore[assignment]
    before = [parameter.detach().clone() for parameter in student.parameters()]
    taught(student, technique(method), point(method), here, **options)
    assert here.structure["distill"]["method"] == method
    assert len(here.structure["distill"]["layers"]["reference"]) == 3
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


def test_where_nothing_can_be_compared_what_the_teacher_says_remains() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    here = context_of(reference_of())
    taught(student, technique("hints", layers=Options(("7",), "7")), point("hints"), here)
    assert here.structure["distill"] == {
        "method": "logits",
        "layers": {},
        "left_out": {"reference": {"7": "gives no tensor in the student"}},
    }


def test_a_transformer_with_named_inputs_and_a_dataclass_learns_from_hints() -> None:
    transformers = pytest.importorskip("transformers")

    def bert(inner: int) -> nn.Module:
        torch.manual_seed(inner)
        sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.BertConfig(**sizes, intermediate_size=inner, num_labels=3)
        made: nn.Module = transformers.BertForSequenceClassification(config)
        return made

    ids = np.random.default_rng(0).integers(0, 30, (64, 6))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    data = make_data((inputs, ids[:, 0] % 3))
    here = Context(
        ClassificationTask(lambda: bert(8), data), data, OnnxRuntime(), bert(32).eval().requires_grad_(False)
    )
    distances = []
    for epochs in (0.01, 20):
        student, distill, choices = bert(8), technique("hints"), point("hints", 0.0, 5.0)
        taught(student, distill, choices, here, epochs=epochs, batch_size=16)
        batch = next(data.train.batches(32))
        with distill.watch(student, choices, here):
            outputs = student.eval()(**batch.inputs)
            distances.append(distill.loss(outputs, batch, torch.zeros(()), choices, here).item())
    assert here.structure["distill"]["layers"] == {
        "reference": ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    }
    assert distances[1] < distances[0]


# -- several teachers ------------------------------------------------------------------------------------------------


def test_the_mean_of_several_teachers_is_that_of_their_probabilities() -> None:
    one, other = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    soft = [F.softmax(logits / 3, 1) for logits in (one, other)]
    assert torch.allclose(F.softmax(averaged([one, other], 3.0) / 3, 1), (soft[0] + soft[1]) / 2, atol=1e-6)
    labels = [torch.sigmoid(logits / 3) for logits in (one, other)]
    found = torch.sigmoid(averaged_labels([one, other], 3.0) / 3)
    assert torch.allclose(found, (labels[0] + labels[1]) / 2, atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "others.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef flat():\n    torch.manual_seed(5)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    return tmp_path


@pytest.mark.parametrize("which", ["reference", "others.py:flat", "all"])
def test_one_of_several_teachers_or_all_are_asked(folder: Path, which: str) -> None:
    reference = reference_of()
    distill = Distill(teacher=("reference", "others.py:flat"), folder=folder)
    found = distill.choices(reference, example_inputs(DATA), OnnxRuntime())
    names = ("reference", "others.py:flat", "all")
    assert found["distill.teachers"] == Options(names, "all")
    torch.manual_seed(5)
    others = {"reference": reference, "others.py:flat": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}
    batch, outputs = next(DATA.train.batches(16)), torch.randn(16, 10)
    asked = [teacher(batch.inputs).detach() for name, teacher in others.items() if which in (name, "all")]
    wanted = torch.stack([F.softmax(logits / 4, 1) for logits in asked]).mean(0)
    expected = 16 * F.kl_div(F.log_softmax(outputs / 4, 1), wanted, reduction="batchmean")
    choices = point("logits", 1.0, teachers=which)
    value = distill.loss(outputs, batch, torch.zeros(()), choices, context_of(reference))
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_artifact_teaches_by_its_outputs_and_its_layers(tmp_path: Path) -> None:
    reference, example = reference_of(), example_inputs(DATA)
    metrics = {"search": {}, "export": {}, "baseline": {}}
    config = {"choices": {}, "spec": {"name": "first"}, "input": {}}
    write_artifact(tmp_path / "out", Contents(reference, example, {}, {"architecture": {}}, metrics, config))
    distill = technique("hints", teacher=("out",), folder=tmp_path)
    distill.choices(network(), example, OnnxRuntime())
    here = context_of(reference_of(4))
    taught(network(4), distill, point("hints"), here)
    assert here.structure["distill"]["layers"] == {"out": ["2", "6", "11"]}
    (tmp_path / "out" / "structure.json").write_text("{}")
    damaged = Distill(teacher=("out",), folder=tmp_path)
    with pytest.raises(ArtifactError, match="space.distill.teacher: got 'out', .* was changed"):
        damaged.choices(network(), example, OnnxRuntime())


def test_hints_come_from_the_teachers_that_have_such_layers(folder: Path) -> None:
    distill = technique("hints", teacher=("reference", "others.py:flat"), folder=folder)
    distill.choices(reference_of(), example_inputs(DATA), OnnxRuntime())
    here = context_of(reference_of())
    taught(network(4), distill, point("hints", teachers="all"), here)
    assert list(here.structure["distill"]["layers"]) == ["reference"]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_layers_that_are_in_no_network_are_refused_with_the_nearest() -> None:
    distill = technique("hints", layers=Options(("auto", "12, 99"), "auto"))
    distill.choices(network(), example_inputs(DATA), OnnxRuntime())
    distill = technique("hints", layers=Options(("fc*", "x"), "x"))
    with pytest.raises(ModelError, match=r"space.distill.layers: got 'fc\*', expected layers .* for hints"):
        distill.choices(network(), example_inputs(DATA), OnnxRuntime())


def test_layers_without_positions_are_refused_for_attention_transfer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    technique("hints").choices(model, example_inputs(DATA), OnnxRuntime())
    with pytest.raises(ModelError, match="without positions"):
        technique("attention_transfer").choices(model, example_inputs(DATA), OnnxRuntime())


def test_an_outside_teacher_without_common_layers_is_refused_for_hints(folder: Path) -> None:
    distill = technique("hints", teacher=("others.py:flat",), folder=folder, layers=Options(("7",), "7"))
    with pytest.raises(ModelError, match="gives no tensor in the teacher"):
        distill.choices(network(), example_inputs(DATA), OnnxRuntime())


def test_decoupled_distillation_needs_one_class_for_each_example() -> None:
    labels = np.eye(10, dtype=np.float32)[np.arange(60) % 10]
    data = make_data((np.zeros((60, 1, 8, 8), np.float32), labels))
    with pytest.raises(TaskError, match="got 'dkd', which needs one class .* outputs are 'multi_label'"):
        technique("logits", "dkd").check(MultiLabelTask(network, data), data)
    technique("logits", "dkd").check(ClassificationTask(network, DATA), DATA)


class Fitted(ClassificationTask):
    """A task that trains a copy, by steps of its own."""

    def fit(self, model: nn.Module, data: Data, budget: Budget) -> nn.Module:
        model = copy.deepcopy(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _, batch in zip(range(3), data.train.batches(16), strict=False):
            optimizer.zero_grad()
            budget.loss(model(batch.inputs), batch).backward()
            optimizer.step()
        return model


@pytest.mark.parametrize("method", ["hints", "self"])
def test_methods_that_need_our_loop_are_refused_for_a_task_that_trains_itself(method: str) -> None:
    with pytest.raises(
        TaskError, match=f"space.distill.method: got '{method}', expected another: the task trains"
    ):
        technique(method).check(Fitted(network, DATA), DATA)


def test_attention_is_transferred_in_a_training_of_the_tasks_own() -> None:
    from autoprune.stretch import stretch

    reference, weights = reference_of(), []
    task = Fitted(network, DATA)
    for hint_weight in (0.001, 1000.0):
        torch.manual_seed(0)
        student, here = network(4), context_of(reference)
        distill, choices = technique("attention_transfer"), point("attention_transfer", 0.0, hint_weight)
        distill.check(task, DATA)

        def loss(outputs: Any, batch: Batch, value: torch.Tensor) -> torch.Tensor:
            return distill.loss(outputs, batch, value, choices, here)  # noqa: B023 (called in this round)

        with distill.watch(student, choices, here) as along:
            assert list(along) == []
            stretch(student, task, DATA, epochs=1, settings=SETTINGS, loss=loss)
        weights.append(student[0].weight.detach().clone())
    assert not torch.allclose(*weights)


# -- in the pipeline -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Evaluator:
    spec = copy.deepcopy(TINY_SPEC)
    spec["space"]["distill"] = {
        "method": list(METHODS),
        "kd_weight": [0.0, 1.0],
        "layers": ["auto", ["stem*"]],
    }
    spec["search"]["rungs"] = [0, 1, 2]
    evaluator = Evaluator(load_spec(spec))
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    return evaluator


@pytest.mark.parametrize("method", METHODS)
def test_a_candidate_that_is_quantized_in_training_continues_as_if_it_had_never_stopped(
    tiny: Evaluator, method: str
) -> None:
    space = Space.from_json(tiny.describe()["choices"])
    compressed = {".ratio": 0.5, "_bits": 8, "quantize.aware": "qat", "kd_weight": 0.5, ".method": method}
    chosen = space.neutral()
    chosen |= {name: value for name in space for end, value in compressed.items() if name.endswith(end)}
    first = tiny.evaluate(Request(0, 1, chosen))
    continued = tiny.evaluate(Request(0, 2, chosen, first.checkpoint))
    at_once = tiny.evaluate(Request(1, 2, chosen))
    assert continued.state == "finished", continued.reason
    assert continued.checkpoint == at_once.checkpoint
    assert continued.structure.get("distill", {"method": method})["method"] == method
    assert ("distill.alpha" in at_once.read) is (method == "dkd")
    assert ("distill.hint_weight" in at_once.read) is (method in ("hints", "attention_transfer"))


# -- what it is worth ------------------------------------------------------------------------------------------------


def pruned(reference: nn.Module, context: Context, ratio: float) -> nn.Module:
    technique, model = Prune(), copy.deepcopy(reference).requires_grad_(True)
    space = technique.choices(model, example_inputs(context.data), context.target)
    point = {name: ratio if name.endswith(".ratio") else choice.neutral for name, choice in space.items()}
    return technique.apply(model, Choices(point), context)


def mislabelled(seed: int) -> Data:
    """600 training examples, four tenths of them with a label at random."""
    rng, batch = np.random.default_rng(seed), next(DATA.train.batches(600, shuffle=seed))
    labels = batch.targets.numpy().copy()
    wrong = rng.random(len(labels)) < 0.4
    labels[wrong] = rng.integers(0, 10, wrong.sum())
    return Data(ArraySplit(batch.inputs.numpy(), labels), DATA.val, DATA.test)


@pytest.fixture(scope="module")
def accuracy_of() -> Callable[[Distill, Choices], float]:
    """The mean accuracy, over eight seeds, of a pruned student that is taught so on mislabelled digits."""
    torch.manual_seed(0)
    reference, task = network(32), ClassificationTask(network, DATA)
    train(reference, task, DATA.train, epochs=10, settings=TrainSettings(batch_size=64, learning_rate=0.1))
    reference.eval().requires_grad_(False)

    def measure(distill: Distill, choices: Choices) -> float:
        found = []
        for seed in range(8):
            here = context_of(reference, mislabelled(seed), seed)
            student = taught(pruned(reference, here, 0.6), distill, choices, here, epochs=10)
            found.append(evaluate_metrics(student, task, DATA.val)["accuracy"])
        return float(np.mean(found))

    return measure


@pytest.fixture(scope="module")
def untaught(accuracy_of: Callable[[Distill, Choices], float]) -> float:
    return accuracy_of(Distill(), point("logits", 0.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings", "gain"),
    [
        ("logits", {"weight": 0.9}, 5.0),
        ("dkd", {"weight": 0.5}, 5.0),
        ("hints", {"weight": 0.0, "hint_weight": 5.0}, 1.0),
        ("attention_transfer", {"weight": 0.0, "hint_weight": 5.0}, 0.5),
        ("self", {"weight": 0.5}, 0.5),
    ],
)
def test_each_method_beats_wrong_labels_alone(
    accuracy_of: Callable[[Distill, Choices], float],
    untaught: float,
    method: str,
    settings: dict[str, float],
    gain: float,
) -> None:
    layers = Options(("1, 4, 8",) if method == "attention_transfer" else ("auto",), "auto")
    found = accuracy_of(technique(method, layers=layers), point(method, **settings))
    assert found > untaught + gain, f"{method}: {found:.2f}, without it {untaught:.2f}"
