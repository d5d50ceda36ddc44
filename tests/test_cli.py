import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoprune import api, cli
from autoprune.errors import SpecError

sys.path.insert(0, str(Path(__file__).parent / "report"))
from real_studies import add_trials, new_study

HELP = "import sys; sys.argv = ['autoprune', '--help']\ntry:\n    from autoprune.cli import main; main()\n"
HELP += "except SystemExit:\n    loaded = {'torch', 'ray', 'optuna'} & set(sys.modules)\n"
HELP += "    print(*loaded, file=sys.stderr)"


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with new_study(tmp_path_factory.mktemp("runs") / "digits") as study:
        add_trials(study, 20)
    return study.folder


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "search" in done.stdout and done.stderr.split() == []


@pytest.mark.parametrize(
    "command",
    [
        "profile",
        "search",
        "resume",
        "cluster",
        "submit",
        "stop",
        "status",
        "front",
        "export",
        "finish",
        "report",
        "list",
        "check",
    ],
)
def test_every_command_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.stdout


def test_status_as_json_has_exactly_the_documented_fields(folder):
    status = json.loads(run("status", folder, "--json").stdout)
    assert list(status) == [
        "state",
        "trials",
        "rungs",
        "front_size",
        "hypervolume",
        "best",
        "budget",
        "spent",
        "live",
        "explanations",
    ]
    assert list(status["trials"]) == ["finished", "stopped", "failed", "running"]
    assert set(status["best"]) == {"trial", "metrics"}
    assert set(status["budget"]["trials"]) == {"spent", "limit"}


def test_status_and_front_print_for_people(folder):
    assert "budget left" in run("status", folder).stdout
    assert "prune ratio" in run("front", folder).stdout


def test_the_front_comes_as_json_and_csv(folder):
    rows = json.loads(run("front", folder, "--json").stdout)
    table = list(csv.DictReader(io.StringIO(run("front", folder, "--csv").stdout)))
    assert [row["trial"] for row in rows] == [int(row["trial"]) for row in table]
    assert set(rows[0]) - {"unstable"} == {"trial", "rung", "metrics", "choices", "sources"}


def test_report_prints_where_it_is(folder):
    result = run("report", folder)
    assert result.exit_code == 0 and Path(result.stdout.strip()).is_file()


@pytest.mark.parametrize("command", ["status", "front", "report", "resume"])
def test_a_run_folder_that_is_not_there_is_bad_input(tmp_path, command):
    result = run(command, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("autoprune: there is no study in")
    assert "Traceback" not in result.stderr


def test_problems_of_a_spec_are_one_line_each(tmp_path):
    spec = tmp_path / "bad.yaml"
    spec.write_text("task: digits\nbudgt: {trials: 3}\nobjectives: {accuracy: up}\n")
    result = run("search", spec)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2 and len(lines) >= 2
    assert all(line.startswith("autoprune: ") for line in lines)


def test_options_that_make_no_sense_are_bad_input(folder):
    assert run("status").exit_code == 2
    assert run("search", "digits", "--trials", "many").exit_code == 2
    assert run("export", folder, "--trial", "last").exit_code == 2


def test_a_wish_that_no_trial_fulfils_is_a_failed_search(folder, tmp_path):
    result = run("export", folder, "--where", "latency_ms <= 0.0001", "--to", tmp_path / "out")
    assert result.exit_code == 1
    assert "comes closest" in result.stderr and not (tmp_path / "out").exists()


def replaced(monkeypatch, name, function):
    """Put a stand-in in the place of an API function: what the command makes of its outcome is under test."""
    monkeypatch.setattr(api, name, function)


def test_options_reach_the_api_as_they_were_given(monkeypatch, tmp_path, folder):
    calls = {}
    study = api.open_study(folder)

    def search(spec, **given):
        calls["search"] = (spec, given)
        return study

    def export(run, to, **given):
        calls["export"] = (run, to, given)
        return to

    replaced(monkeypatch, "search", search)
    replaced(monkeypatch, "export", export)
    replaced(monkeypatch, "resume", lambda run, folder, on_event: study)
    replaced(monkeypatch, "finish", lambda run, number, **given: study.trial(number))
    limits = ("--trials", 5, "--minutes", 2, "--workers", 1, "--seed", 3)
    result = run("search", "digits", "--run", tmp_path, *limits)
    assert "autoprune export" in result.stdout
    spec, given = calls["search"]
    del given["on_event"]
    assert spec == "digits"
    assert {name: value for name, value in given.items() if value is not None} == {
        "run": str(tmp_path),
        "trials": 5,
        "minutes": 2.0,
        "workers": 1,
        "seed": 3,
    }
    assert (
        run("export", folder, "--to", tmp_path, "--where", "latency_ms<=1", "--format", "onnx").exit_code == 0
    )
    assert calls["export"][2]["where"] == "latency_ms<=1" and calls["export"][2]["formats"] == ("onnx",)
    assert run("resume", folder).exit_code == 0
    assert "trial 0: accuracy" in run("finish", folder, "--trial", 0, "--epochs", 1).stdout


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SpecError(["a: wrong", "b: wrong"]), 2, "autoprune: a: wrong\nautoprune: b: wrong\n"),
        (
            KeyboardInterrupt("runs/x"),
            130,
            "autoprune: interrupted; `autoprune resume runs/x` goes on from there\n",
        ),
        (KeyboardInterrupt(), 130, "autoprune: interrupted\n"),
    ],
)
def test_an_error_becomes_a_message_and_an_exit_code(monkeypatch, error, code, message):
    def fail(*arguments, **given):
        raise error

    replaced(monkeypatch, "search", fail)
    result = run("search", "digits")
    assert (result.exit_code, result.stderr) == (code, message)


def test_a_bug_of_ours_stays_a_traceback(monkeypatch):
    def fail(*arguments, **given):
        raise ZeroDivisionError

    replaced(monkeypatch, "profile", fail)
    assert isinstance(run("profile", "digits").exception, ZeroDivisionError)


def test_profile_and_list_print_json(monkeypatch):
    made = {"choices": {}, "techniques": {}, "baseline": {"accuracy": 98.0}, "ranges": {}, "problems": []}
    replaced(monkeypatch, "profile", lambda spec, **given: made)
    replaced(monkeypatch, "listing", lambda: {"task": ["digits"]})
    assert json.loads(run("profile", "digits", "--json").stdout) == made
    assert "98.00 %" in run("profile", "digits").stdout
    assert json.loads(run("list", "--json").stdout) == {"task": ["digits"]}
    assert "digits" in run("list").stdout


def test_what_a_profile_is_busy_with_does_not_mix_with_its_json(monkeypatch):
    def profile(spec, on_event, **given):
        on_event("preparing", {"what": "the workers"})
        return {}

    replaced(monkeypatch, "profile", profile)
    result = run("profile", "digits", "--json")
    assert json.loads(result.stdout) == {} and result.stderr == "preparing the workers\n"


def test_a_broken_contract_is_an_exit_code(monkeypatch):
    from autoprune.contracts import Check

    replaced(monkeypatch, "check", lambda reference, **_: [Check("it runs", True, "")])
    assert run("check", "mine.py:Task").exit_code == 0
    replaced(monkeypatch, "check", lambda reference, **_: [Check("it runs", False, "ValueError: no")])
    result = run("check", "mine.py:Task")
    assert result.exit_code == 2 and "BROKEN  it runs" in result.stdout


WAITING = """
import sys, time
from autoprune import api, cli

def wait(*arguments, **given):
    print("up", flush=True)
    time.sleep(30)

api.search = wait
sys.argv = ["autoprune", "search", "digits"]
cli.main()
"""


def test_ctrl_c_in_a_real_process_exits_with_130():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", WAITING], **pipes)
    assert process.stdout.readline() == "up\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (130, "autoprune: interrupted\n")
