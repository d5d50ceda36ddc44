"""Specs: what is accepted, what is filled in, and that every problem is reported at once."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.constraint import Constraint, Objective
from autoprune.errors import SpecError
from autoprune.space import Options, Range
from autoprune.spec import Spec, load_spec

SMALL = {"task": "digits", "budget": {"trials": 3}}
FULL = {
    "name": "full",
    "task": {"use": "my_tasks:Task", "classes": 3, "sizes": [1, 2], "note": None},
    "space": {
        "architecture": {"width": [0.5, 1.0], "depth": 3, "act": ["relu", "silu"]},
        "prune": {"ratio": [0.0, 0.5], "criterion": ["l1", "taylor"], "exclude": ["stem*"]},
        "distill": {"temperature": {"options": [2, 4]}, "kd_weight": 0.5, "teacher": "my_tasks:teacher"},
        "quantize": {"weight_bits": [4, 8], "quantizer": ["ptq", "qat"]},
        "train": {"learning_rate": [0.001, 0.1]},
    },
    "train": {"epochs": 0, "optimizer": "adamw", "precision": "auto"},
    "target": {"use": "onnxruntime", "threads": 2},
    "objectives": {"accuracy": "maximize", "macs": "minimize", "f1": "maximize"},
    "constraints": ["accuracy >= baseline - 1.0", "size_bytes <= 25%"],
    "budget": {"trials": 10, "minutes": 0.5, "device_seconds": 60},
    "search": {"sampler": "nsga2", "rungs": [0, 0.5, 2], "reduction": 2, "warm_start": False},
    "cluster": {"address": "auto", "workers": 4, "gpus_per_worker": 0.5},
    "seed": 7,
}


def problems(data, **overrides):
    """The problems of a spec, one line each."""
    with pytest.raises(SpecError) as error:
        load_spec(data, **overrides)
    return list(error.value.problems)


def changed(path, value):
    """`SMALL` with one field set."""
    section, _, field = path.partition(".")
    return {**SMALL, section: {**SMALL.get(section, {}), field: value} if field else value}


def test_what_is_left_out_has_a_default():
    spec = load_spec(SMALL)
    assert spec.objectives == (Objective("accuracy", "maximize"), Objective("latency_ms", "minimize"))
    assert (spec.target["onnxruntime"].use, spec.search.sampler, spec.cluster.workers.min, spec.seed) == (
        "onnxruntime",
        "auto",
        2,
        0,
    )
    assert spec.space.architecture == {}
    assert spec.space.prune is spec.space.distill is spec.space.quantize is spec.space.learning_rate is None
    assert spec.rung_epochs == (0.0, 1.0, 3.0)
    assert spec.folder == Path.cwd()


def test_everything_given_is_kept():
    spec = load_spec(FULL)
    assert spec.task.arguments == {"classes": 3, "sizes": [1, 2], "note": None}
    assert spec.space.architecture == {"width": (0.5, 1.0), "depth": (3,), "act": ("relu", "silu")}
    assert spec.space.prune.ratio == Range(0.0, 0.5, neutral=0.0)
    assert spec.space.prune.exclude == ("stem*",)
    assert spec.space.distill.kd_weight == Options((0.5,), neutral=0.0)
    assert spec.space.quantize.weight_bits == Options((4, 8), neutral=32)
    assert spec.space.learning_rate.log
    assert spec.constraints[1] == Constraint("size_bytes", "<=", 25.0, "percent")
    assert spec.train_settings() == {
        "batch_size": 128,
        "learning_rate": 0.001,
        "weight_decay": 5e-4,
        "momentum": 0.9,
        "optimizer": "adamw",
        "precision": "auto",
        "compile": False,
    }
    assert (spec.cluster.address, spec.cluster.workers.max, spec.cluster.gpus_per_worker) == ("auto", 4, 0.5)


def test_true_is_a_technique_with_its_defaults_and_false_is_none():
    space = load_spec({**SMALL, "space": {"prune": True, "distill": False, "quantize": {}}}).space
    assert space.prune.criterion == Options(("l1",), "l1")
    assert space.distill is None
    assert space.quantize.activation_bits == Options((8, 32), 32)


def test_the_task_may_offer_its_own_architectures():
    assert load_spec(changed("space.architecture", "default")).space.architecture == "default"


@pytest.mark.parametrize("data", [SMALL, FULL, changed("space.architecture", "default")])
def test_a_resolved_spec_reads_back_as_itself(data):
    spec = load_spec(data)
    assert Spec.from_yaml(spec.to_yaml()) == spec
    assert load_spec(spec) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_spec_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_spec(SMALL).seed = 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "../up", "name: got '../up', expected a name of letters"),
        ("task", 3, "task: got 3, expected 'file.py:Name'"),
        ("task", " ", "task: got an empty text"),
        ("task", {"use": 3}, "task.use: got 3, expected a text"),
        (
            "task",
            {"use": "a:b", "x": object},
            "task: got 'x' in it, expected named arguments of plain, finite data",
        ),
        ("target", {"use": "torch", "x": ["\ud800"]}, "target.x.0: got '\\ud800', expected a text of whole"),
        ("space", {"a\ud806": {}}, "space: got the name 'a\\ud806', expected whole characters"),
        ("task", {"name": "a:b"}, "task: got {'name': 'a:b'}"),
        ("task", "nowhere.py:Task", "task: got 'nowhere.py:Task', expected an existing file"),
        ("target", "nowhere.py:T", "target: got 'nowhere.py:T', expected an existing file"),
        ("space", 3, "space: got 3, expected a mapping of architecture, depth, prune"),
        ("space.quantise", True, "space.quantise: got an unknown field, expected one of architecture"),
        ("space.prune", {"ratio": {"low": 0.5}}, "space.prune.ratio: got {'low': 0.5}, expected low, high"),
        ("task", {"use": "a:b", "x": {"y": float("nan")}}, "task: got 'x' in it, expected named arguments"),
        ("space.prune", None, "space.prune: got nothing, expected true (its defaults)"),
        ("space.prune", {"ratio": [0, 1]}, "space.prune.ratio: got 1, expected a number from 0 up to"),
        ("space.prune", {"include": "conv*"}, "space.prune.include: got 'conv*', expected a list of names"),
        ("space.prune", {"include": [3]}, "space.prune.include[0]: got 3, expected a list of names"),
        ("space.distill", {"teacher": "nowhere.py:t"}, "space.distill.teacher: got 'nowhere.py:t'"),
        (
            "space.quantize",
            {"weight_bits": [1]},
            "space.quantize.weight_bits: got 1, expected one or a list of 2",
        ),
        ("space.quantize", {"aware": "qta"}, "did you mean 'qat'"),
        ("space.architecture", {"width": [[1]]}, "space.architecture.width: got [1], expected a value"),
        ("space.architecture", {3: 1}, "space.architecture: got the name 3"),
        ("space.architecture", [1], "space.architecture: got [1], expected 'default' or lists"),
        ("space.train", {}, "space.train.learning_rate: got nothing, expected a number above 0"),
        ("train.epochs", -1, "train.epochs: got -1, expected a number of 0 or more"),
        ("train.epochs", float("inf"), "train.epochs: got inf"),
        ("train.batch_size", 1.5, "train.batch_size: got 1.5, expected a whole number"),
        (
            "train.optimizer",
            "sdg",
            "train.optimizer: got 'sdg', expected 'sgd' or 'adamw'; did you mean 'sgd'?",
        ),
        ("objectives", {}, "objectives: got {}, expected 1 to 4 lines"),
        (
            "objectives",
            {"accuracy": "max"},
            "objectives.accuracy: got 'max', expected 'minimize' or 'maximize'",
        ),
        ("objectives", {"acuracy": "maximize"}, "objectives: got the metric 'acuracy', expected 'accuracy'"),
        ("objectives", {"latency": "minimize"}, "got the metric 'latency', expected 'latency_ms'"),
        ("objectives", {2: "minimize"}, "objectives: got the metric 2, expected a name"),
        ("constraints", "macs <= 3", "constraints: got 'macs <= 3', expected a list"),
        ("constraints", ["macs <= 3", "macs < 3"], "constraints[1]: got 'macs < 3', expected"),
        ("constraints", ["param <= 3"], "constraints[0]: got the metric 'param', expected 'params'"),
        (
            "budget",
            {},
            "budget: got no limit, expected at least one of trials, minutes, device_seconds, device_hours, money",
        ),
        ("budget.trials", "200", "budget.trials: got '200', expected a whole number of 1 or more"),
        ("budget.minutes", 0, "budget.minutes: got 0, expected a number above 0"),
        ("search.sampler", "tpee", "did you mean 'tpe'?"),
        ("search.sampler", "nowhere.py:S", "search.sampler: got 'nowhere.py:S', expected an existing file"),
        ("search.rungs", [0, 3, 1], "search.rungs: got [0.0, 3.0, 1.0], expected a list of growing epochs"),
        ("search.rungs", [], "search.rungs: got [], expected a list of growing epochs"),
        ("search.rungs", [-1, 2], "search.rungs[0]: got -1, expected a list of growing epochs"),
        ("search.rungs", 3, "search.rungs: got 3, expected a list of growing epochs"),
        ("search.reduction", 1, "search.reduction: got 1, expected a whole number of 2 or more"),
        ("cluster.workers", True, "cluster.workers: got True, expected a whole number"),
        ("seed", -1, "seed: got -1, expected a whole number from 0"),
        ("folder", 3, "folder: got 3, expected the folder"),
        ("tsak", 3, "tsak: got an unknown field"),
        ("kd_weight", 3, "did you mean 'space.distill.kd_weight'?"),
    ],
)
def test_a_problem_names_the_field_what_it_got_and_what_it_expects(path, value, message):
    found = problems(changed(path, value))
    assert len(found) == 1
    assert message in found[0]


def test_every_problem_is_reported_at_once():
    found = problems(
        {
            "task": 1,
            "space": {"distill": True, "prune": {"ratio": 2, "criterion": "l3"}},
            "train": {"epoch": 3},
            "search": {"rungs": [0]},
            "seed": "x",
        }
    )
    assert sorted(line.split(":")[0] for line in found) == [
        "budget",
        "seed",
        "space.distill",
        "space.prune.criterion",
        "space.prune.ratio",
        "task",
        "train.epoch",
    ]


@pytest.mark.parametrize(
    ("space", "path"),
    [
        ({"distill": True}, "space.distill"),
        ({"train": {"learning_rate": 0.1}}, "space.train"),
        ({"quantize": {"aware": ["ptq", "qat"]}}, "space.quantize.quantizer"),
        ({"quantize": {"quantizer": "lsq"}}, "space.quantize.quantizer"),
    ],
)
def test_what_needs_training_needs_a_rung_that_trains(space, path):
    data = {**SMALL, "space": space, "search": {"rungs": [0]}}
    assert problems(data) == [
        f"{path}: got something to train for, expected a rung above 0 in search.rungs (it is [0])"
    ]
    assert load_spec(data, rungs=[0, 1]).rung_epochs == (0.0, 1.0)


@pytest.mark.parametrize("metric", ["accuracy5", "accuracy_1", "f1", "maps", "perplexity"])
def test_a_task_may_name_its_own_metrics(metric):
    assert load_spec(changed("objectives", {metric: "maximize"})).objectives[0].metric == metric


def test_metrics_that_nobody_produces_are_found_once_the_task_is_known():
    spec = load_spec(
        {**SMALL, "objectives": {"f1_scor": "maximize"}, "constraints": ["macs <= 3", "loss <= 1"]}
    )
    found = spec.problems_of_metrics(["f1_score", "accuracy"])
    assert [line.split(":")[0] for line in found] == ["objectives.f1_scor", "constraints[1]"]
    assert found[0].endswith("did you mean 'f1_score'?")


@pytest.mark.parametrize("data", [None, [], 3, object()])
def test_a_spec_is_a_mapping(data):
    assert problems(data)[0].startswith("spec: got ")


def test_a_field_whose_name_is_no_text_is_a_problem():
    assert "got a field named 5" in problems({**SMALL, 5: 6})[0]


def test_a_file_gives_its_name_and_its_folder(tmp_path):
    (tmp_path / "tasks.py").write_text("class Digits: ...")
    (tmp_path / "my-search.yaml").write_text("task: tasks.py:Digits\nbudget: {trials: 3}")
    spec = load_spec(tmp_path / "my-search.yaml")
    assert (spec.name, spec.folder) == ("my-search", tmp_path.resolve())
    assert load_spec(str(tmp_path / "my-search.yaml")) == spec


def test_a_stored_spec_is_read_after_its_files_have_gone(tmp_path):
    (tmp_path / "tasks.py").write_text("class Digits: ...")
    (tmp_path / "s.yaml").write_text("task: tasks.py:Digits\nbudget: {trials: 3}")
    spec = load_spec(tmp_path / "s.yaml")
    (tmp_path / "tasks.py").unlink()
    assert Spec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"task: [", "line 1"),
        (b"", "spec: got nothing, expected a mapping of name, task"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path, text, message):
    (tmp_path / "s.yaml").write_bytes(text)
    assert message in problems(tmp_path / "s.yaml")[0]


@pytest.mark.parametrize("source", ["no_such_spec", "no/such/file.yaml", "x" * 5000, "a\x00b"])
def test_a_spec_that_is_not_there(source):
    assert "expected a file that exists or a ready spec" in problems(source)[0]


def test_overrides_change_one_field_of_a_section_and_replace_the_rest():
    spec = load_spec(
        FULL, trials=5, workers=1, seed=None, minutes=None, budget={"minutes": 9.0}, constraints=[]
    )
    assert (spec.budget.trials, spec.budget.minutes, spec.budget.device_seconds) == (5, 9.0, 60.0)
    assert (spec.cluster.workers.max, spec.cluster.address, spec.seed, spec.constraints) == (1, "auto", 7, ())
    assert "budget.trials: got 0" in problems(FULL, trials=0)[0]
    assert "colour: got an unknown field" in problems(FULL, colour=3)[0]


def test_importing_it_loads_nothing_heavy():
    code = "import sys, autoprune.spec; print({'torch', 'optuna', 'ray', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


words = st.sampled_from(
    [
        *FULL,
        *FULL["space"],
        *FULL["search"],
        "use",
        "low",
        "high",
        "step",
        "log",
        "options",
        "accuracy",
        "folder",
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.sampled_from(["digits", "l1", "default", "maximize", "macs <= 3", 10**400, -(2**70), 0.5, 8]),
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | scalars, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(words, junk, max_size=6), st.booleans())
def test_junk_is_a_spec_or_a_spec_error(data, on_top):
    try:
        spec = load_spec({**FULL, **data} if on_top else data)
    except SpecError as error:
        assert all(error.problems)
    else:
        assert Spec.from_yaml(spec.to_yaml()) == spec


def paths(data, prefix=()):
    """Where each field of nested mappings is."""
    for name, inner in data.items():
        yield (*prefix, name)
        if isinstance(inner, dict):
            yield from paths(inner, (*prefix, name))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(paths(FULL))), junk)
def test_junk_within_a_good_spec_is_accepted_or_refused(path, value):
    data = copy.deepcopy(FULL)
    section = data
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    try:
        spec = load_spec(data)
    except SpecError as error:
        assert any(path[0] in line for line in error.problems)
    else:
        assert Spec.from_yaml(spec.to_yaml()) == spec


def test_a_teacher_that_is_trained_for_less_than_its_students_is_doubted():
    def doubts(epochs: float, **distill: object) -> list[str]:
        given = {"space": {"distill": distill}, "train": {"epochs": epochs}, "search": {"rungs": [0, 1, 3]}}
        return load_spec({**SMALL, **given}).doubts()

    assert len(doubts(1.5)) == 1 and "1.5 epochs (train.epochs)" in doubts(1.5)[0]
    assert doubts(2.5) == doubts(0) == doubts(1.5, teacher="my_tasks:teacher") == []
    assert load_spec({**SMALL, "train": {"epochs": 1}}).doubts() == []


def test_layers_to_freeze_are_patterns_and_no_setting_of_the_loop():
    spec = load_spec({**FULL, "train": {"freeze": ["embeddings.*"], "compile": True, "precision": "float16"}})
    assert spec.train.freeze == ("embeddings.*",)
    assert "freeze" not in spec.train_settings()
    assert spec.train_settings()["compile"] is True
    with pytest.raises(SpecError, match="train.freeze: got 'stem', expected a list of names"):
        load_spec({**FULL, "train": {"freeze": "stem"}})
