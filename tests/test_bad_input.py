"""Bad input gets a clear answer, and nothing is lost: one sentence, an exit code, and no trace left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
import yaml
from bad_tasks import WantsAnArgument
from safetensors.torch import save
from tiny_spec import TINY_SPEC
from tiny_task import TinyTask
from typer.testing import CliRunner

import autoprune
from autoprune import cli
from autoprune.contracts import Broken, check_object
from autoprune.errors import ArtifactError, BadInput, MissingExtra, SpecError
from autoprune.evaluate import Evaluator
from autoprune.search.profile import check_reachable, make_profile
from autoprune.search.samplers import make_sampler
from autoprune.spec import load_spec
from autoprune.study import Study
from autoprune.targets import load_target

BAD = f"{Path(__file__).parent / 'bad_tasks.py'}"
LAYERS_ONLY = {name: part for name, part in TINY_SPEC["space"].items() if name != "architecture"}


def run(*arguments):
    """Exit code and standard error of a command; an exception that gets through it is a bug of ours."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def refused(message, *arguments, code=2):
    found, stderr = run(*arguments)
    lines = [line for line in stderr.splitlines() if line.startswith("autoprune: ")]
    assert (found, message in stderr, len(lines) >= 1) == (code, True, True), stderr


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def spec_file(folder, **changes):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY_SPEC, **changes}))
    return file


class Inline:
    """An evaluator in this process, in the place of a pool of them."""

    size = 1

    def __init__(self, evaluator):
        self.evaluator = evaluator

    def call(self, method, *arguments):
        return getattr(self.evaluator, method)(*arguments)

    def map(self, method, calls):
        return [self.call(method, *arguments) for arguments in calls]


def prepare(**changes):
    """What a search does before its first trial, in this process."""
    spec = load_spec({**TINY_SPEC, "train": {"epochs": 0.5, "batch_size": 32}, **changes})
    evaluator = Evaluator(spec)
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    made = make_profile(Inline(evaluator), spec)
    check_reachable(spec, made)
    return made


# -- the spec ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgt": {"trials": 3}}, "did you mean 'budget'?"),
        ({"budget": {"trials": "many"}}, "budget.trials: got 'many', expected a whole number"),
        ({"budget": {"trials": -1}}, "budget.trials: got -1"),
        ({"budget": {"minutes": float("nan")}}, "budget.minutes: got nan, expected a number above 0"),
        ({"cluster": {"workers": 0}}, "cluster.workers: got 0, expected a whole number of 1 or more"),
        ({"seed": "a"}, "seed: got 'a'"),
        ({"objectives": {"accuracy": "up"}}, "expected 'minimize' or 'maximize'"),
        ({"constraints": ["params =< 5"]}, "write '<=' instead of '=<'"),
        ({"constraints": ["latncy_ms <= 1"]}, "expected 'latency_ms'"),
        ({"space": {"prune": {"ratio": [0.5, 1.5]}}}, "space.prune.ratio: got 1.5"),
        ({"space": {"quantise": {}}}, "did you mean 'quantize'?"),
        ({"task": "mnits.py:Mnist"}, "there is no file 'mnits.py'; did you mean 'mnist.py'?"),
        ({"search": {"sampler": "tpee"}}, "did you mean 'tpe'?"),
        ({"search": {"sampler": f"{BAD}:NUMBER"}}, "is a int, not an optuna BaseSampler"),
        ({"search": {"sampler": f"{BAD}:SamplerCannotBeMade"}}, "raises ValueError: no configuration"),
    ],
)
def test_a_spec_is_refused_before_anything_starts(tmp_path, changes, message):
    refused(message, "search", spec_file(tmp_path, **changes), "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists() and names(tmp_path) == ["tiny.yaml"]


@pytest.mark.parametrize("text", ["", "- a\n", "task: [digits\nfoo: }", "\x00\x01"])
def test_a_file_that_is_no_spec_is_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    assert run("search", tmp_path / "bad.yaml", "--run", tmp_path / "run")[0] == 2
    refused("did you mean 'digits'?", "search", "digist", "--run", tmp_path / "run")


@pytest.mark.parametrize("folder", ["/proc/autoprune/run", "{file}", "{file}/run", "{full}"])
def test_a_run_folder_that_cannot_be_used_is_refused_at_once(tmp_path, folder):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    folder = folder.format(file=tmp_path / "file", full=tmp_path / "full")
    refused(f"{folder} ", "search", spec_file(tmp_path), "--run", folder)
    assert names(tmp_path) == ["file", "full", "tiny.yaml"]


# -- the task, the model and the target ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ConstructorRaises", r"raises ValueError: no disk \(bad_tasks.py, line \d+\)"),
        ("WantsAnArgument", "missing a required argument: 'path'"),
        ("NUMBER", "expected a task or a class that makes one"),
        ("TinyTsk", "did you mean 'TinyTask'"),
        ("ModelRaises", r"model\(\) raises RuntimeError: no weights"),
        ("ModelIsNone", "returns NoneType, expected a torch.nn.Module"),
        ("DataRaises", r"data\(\) raises FileNotFoundError: images.npz"),
        ("LossRaises", r"loss\(\) raises KeyError: 'label'"),
        ("LossIsNan", r"loss\(\) is nan"),
        ("LossRaisesLater", r"raises RuntimeError: label 7 is unknown \(bad_tasks.py, line \d+\)"),
        ("LossIsNanLater", "the loss is nan at step 3 of training"),
        ("MetricsRaise", r"metrics\(\) raises IndexError: no column 3"),
        ("MetricsAreNan", "gives accuracy = nan, expected a finite number"),
        ("Empty", "0 examples"),
        ("EmptyValidation", r"data\(\).val is empty"),
        ("LabelsFromOne", "labels 1 to 4, but the model has 4 outputs: labels go from 0 to 3"),
        ("LabelsMissing", "100 examples and y has 99"),
        ("LabelsAreFloats", "expected whole class numbers"),
        ("InputsAreNan", "NaN or infinity, first in example 0"),
        ("InputsOfAnotherShape", "but got 3 channels instead"),
    ],
)
def test_a_task_that_does_not_work_is_told_so(name, message):
    with pytest.raises(BadInput, match=message):
        prepare(task=f"{BAD}:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unexportable", "uncompressed network .* cannot be exported to ONNX: .*linalg_eigvalsh"),
    ],
)
def test_a_model_that_cannot_be_followed_names_what_stops_it(name, message):
    with pytest.raises(BadInput, match=message):
        prepare(task=f"{BAD}:{name}", space=LAYERS_ONLY)


@pytest.mark.parametrize("name", ["Branching", "Untraceable"])
def test_what_other_tools_cannot_trace_can_be_searched_all_the_same(name):
    made = prepare(task=f"{BAD}:{name}", space=LAYERS_ONLY)
    assert any(name.startswith("prune.") for name in made["choices"])


def test_an_architecture_argument_that_the_model_does_not_take_is_refused():
    with pytest.raises(BadInput, match="takes no such argument; did you mean 'width'?"):
        prepare(space={"architecture": {"widht": [4, 8]}})


def test_an_architecture_that_the_model_cannot_have_is_named_and_its_points_are_rejected():
    made = prepare(space={"architecture": {"width": [8, -8]}})
    assert any("model(width=-8) raises RuntimeError" in warning for warning in made["warnings"])


def test_constraints_that_nothing_can_meet_come_with_what_is_achievable():
    with pytest.raises(SpecError, match="achievable is") as refusal:
        prepare(constraints=["params <= 1", "latency_ms <= 1e-9", "accuracy >= 1"])
    assert [problem.split(":")[1] for problem in refusal.value.problems] == [
        " params <= 1",
        " latency_ms <= 1e-09",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"round": 4}, "did you mean 'rounds'?"),
        ({"rounds": 0}, "target.rounds: got 0, expected a whole number of 1 or more"),
        ({"block_ms": "x"}, "target.block_ms: got 'x'"),
    ],
)
def test_a_target_says_which_argument_is_wrong(arguments, message):
    with pytest.raises(BadInput, match=message):
        load_target("onnxruntime", None, arguments)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_one_sentence_with_the_command(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(MissingExtra, match=f"needs {package}: pip install {package}$"):
        load_target("onnxruntime")


def test_objects_of_the_wrong_kind_are_told_so():
    with pytest.raises(BadInput, match=r"has no weight_bits, .*\(see autoprune.targets.Target\)"):
        load_target(f"{BAD}:NUMBER")
    with pytest.raises(BadInput, match="cannot be made without arguments"):
        make_sampler("optuna.samplers:PartialFixedSampler", 0)
    for reference, message in (("NUMBER", "it is of type int"), ("ConstructorRaises", "no disk")):
        refused(message, "check", f"{BAD}:{reference}")
    with pytest.raises(Broken, match="missing a required argument: 'path'"):
        check_object(WantsAnArgument, TinyTask(), load_target("onnxruntime"))


# -- with workers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_ray():
    """One Ray for all searches of this file: its start takes longer than they do."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def searched(one_ray, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "run"
    spec = {**TINY_SPEC, "train": {"epochs": 1, "batch_size": 32}, "budget": {"trials": 3}}
    autoprune.search(spec, run=folder)
    return folder


@pytest.fixture
def folder(searched, tmp_path):
    return Path(shutil.copytree(searched, tmp_path / "run"))


@pytest.fixture(scope="module")
def artifact(searched, tmp_path_factory):
    return autoprune.export(searched, tmp_path_factory.mktemp("bad") / "artifact")


def test_what_workers_find_wrong_arrives_as_one_sentence(one_ray, tmp_path):
    spec = spec_file(tmp_path, task=f"{BAD}:LossRaisesLater")
    message = "training the uncompressed network raises RuntimeError: label 7 is unknown (bad_tasks.py, line "
    refused(message, "search", spec, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sampler_that_raises_leaves_a_study_that_can_go_on(one_ray, tmp_path):
    sampler = {"sampler": f"{BAD}:SamplerRaises", "warm_start": False}
    spec = spec_file(tmp_path, search=sampler, train={"epochs": 0.5, "batch_size": 32})
    message = "SamplerRaises raises ZeroDivisionError: my sampler"
    refused(message, "search", spec, "--run", tmp_path / "run")
    assert autoprune.open_study(tmp_path / "run").status()["state"] == "interrupted"


# -- the run folder ------------------------------------------------------------------------------------------

JOURNAL, REFERENCE = "study.journal", "reference.safetensors"


def with_line(line):
    """Puts `line` in the middle of the journal."""

    def damage(folder):
        lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
        lines[len(lines) // 2] = line
        (folder / JOURNAL).write_bytes(b"".join(lines))

    return damage


def checkpoint_of(folder):
    number = autoprune.open_study(folder).best().number
    return next((folder / "checkpoints" / str(number)).glob("rung-*.safetensors"))


def replace_header(folder):
    content = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(content.replace(b"budget", b"bugdet"))


@pytest.mark.parametrize("command", ["status", "front", "report", "resume", "export"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_line(b"garbage\n"), "is damaged"),
        (with_line(b'{"a": 1}\n'), "is damaged"),
        (lambda folder: (folder / JOURNAL).write_bytes(b""), "is not the journal of a study"),
        (lambda folder: (folder / JOURNAL).write_bytes(bytes(range(256)) * 4), "line 1 is damaged"),
        (replace_header, "has a damaged header"),
        (lambda folder: (folder / JOURNAL).unlink(), "there is no study in"),
    ],
)
def test_a_damaged_journal_is_told_so(folder, damage, message, command):
    damage(folder)
    before = (folder / JOURNAL).read_bytes() if (folder / JOURNAL).exists() else None
    refused(message, command, folder)
    after = (folder / JOURNAL).read_bytes() if (folder / JOURNAL).exists() else None
    assert before == after


def test_a_last_line_that_was_cut_off_loses_only_itself(folder):
    content = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(content[:-9])
    assert run("status", folder)[0] == 0
    assert len(autoprune.open_study(folder).results) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"", "is damaged"),
        (bytes(range(256)) * 2, "is damaged"),
        (save({"a": torch.ones(2)}), "does not fit"),
    ],
)
def test_a_damaged_reference_is_told_so(folder, tmp_path, content, message):
    (folder / REFERENCE).unlink()
    if content is not None:
        (folder / REFERENCE).write_bytes(content)
    refused(message, "export", folder, "--to", tmp_path / "out")
    refused(message, "finish", folder, "--trial", 0, "--epochs", 0.1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0, 10, 1500])
def test_a_damaged_checkpoint_is_told_so_with_the_way_out(folder, tmp_path, kept):
    file = checkpoint_of(folder)
    file.write_bytes(file.read_bytes()[:kept])
    refused(
        f"delete checkpoints/{file.parent.name}, and `finish` trains it again",
        "export",
        folder,
        "--trial",
        file.parent.name,
        "--to",
        tmp_path / "out",
    )
    shutil.rmtree(file.parent)
    finish = ("finish", folder, "--trial", file.parent.name, "--epochs", 0.1)
    assert run(*finish)[0] == 0
    assert not (tmp_path / "out").exists()


def test_two_drivers_cannot_write_one_study(folder):
    with Study.open(folder, write=True):
        refused("another search is at work", "resume", folder)
        refused("another search is at work", "finish", folder, "--trial", 0, "--epochs", 1)
        assert run("status", folder)[0] == 0


# -- wishes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--trial", 99), "there is no trial 99", 2),
        (("--trial", -1), "there is no trial -1", 2),
        (("--where", "latency_ms <= 0"), "comes closest", 1),
        (("--where", "latncy_ms <= 1"), "did you mean 'latency_ms'?", 2),
        (("--where", "fast"), "expected 'latency_ms <= 2'", 2),
        (("--minimize", "latency"), "did you mean 'latency_ms'?", 2),
        (("--minimize", "latency_ms", "--maximize", "accuracy"), "expected one of them", 2),
        (("--format", "tflite"), "known are onnx", 2),
    ],
)
def test_an_export_that_makes_no_sense_is_refused(searched, tmp_path, arguments, message, code):
    refused(message, "export", searched, "--to", tmp_path / "out", *arguments, code=code)
    assert names(tmp_path) == []


def test_an_export_to_a_folder_in_use_is_refused(searched, tmp_path):
    (tmp_path / "file").write_text("")
    for to in (searched, tmp_path / "file"):
        refused("exists and is not empty", "export", searched, "--to", to)
    refused("cannot be written", "export", searched, "--to", tmp_path / "file" / "out")


@pytest.mark.parametrize("limit", [("--epochs", -1), ("--epochs", "inf"), ("--minutes", "nan"), ()])
def test_finishing_wants_a_number_that_makes_sense(searched, limit):
    refused("finish: ", "finish", searched, "--trial", 0, *limit)


# -- the artifact --------------------------------------------------------------------------------------------


def newer_format(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))


def as_link(folder):
    target = (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(target)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (newer_format, "upgrade it"),
        (as_link, "is a link"),
        (lambda folder: (folder / "more.txt").write_text(""), "does not list"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no artifact"),
    ],
)
def test_a_tampered_artifact_is_refused(artifact, tmp_path, tamper, message):
    copy = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    tamper(copy)
    with pytest.raises(ArtifactError, match=message):
        autoprune.load(copy)


def test_every_file_of_an_artifact_is_held_against_its_hash(artifact, tmp_path):
    autoprune.load(artifact)
    for name in set(names(artifact)) - {"manifest.json"}:
        changed = Path(shutil.copytree(artifact, tmp_path / f"changed-{name}"))
        content = bytearray((changed / name).read_bytes())
        content[len(content) // 2] ^= 1
        (changed / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=f"{name} was changed"):
            autoprune.load(changed)
        (changed / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            autoprune.load(changed)


# -- Ctrl-C --------------------------------------------------------------------------------------------------


def test_ctrl_c_while_a_search_is_prepared_leaves_nothing(one_ray, tmp_path):
    """To the whole group of processes, as a terminal sends it."""
    address = ray.get_runtime_context().gcs_address
    options = ["search", str(spec_file(tmp_path)), "--run", "run", "--address", address]
    process = subprocess.Popen(
        [sys.executable, "-m", "autoprune.cli", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any("reference" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "autoprune: interrupted\n")
    assert names(tmp_path) == ["tiny.yaml"]
