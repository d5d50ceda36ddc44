"""Searches that are submitted as jobs: to a real head with its job server, of another Python environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprune import submission
from autoprune.cluster.jobs import Job, reason_of, stage
from autoprune.errors import BadInput

PORT = 25000 + os.getpid() % 500
ADDRESS = f"127.0.0.1:{PORT}"
TASK = Path(__file__).parents[1] / "tiny_task.py"
SPEC: dict[str, Any] = {
    "name": "tiny",
    "task": "tiny_task.py:TinyTask",
    "space": {"prune": {"ratio": [0.0, 0.75]}},
    "target": {"use": "onnxruntime", "rounds": 4, "block_ms": 2.0},
    "train": {"epochs": 1, "batch_size": 32},
    "budget": {"trials": 3},
    "search": {"rungs": [0], "sampler": "random", "profile": "costs"},
    "cluster": {"workers": 1},
}
HEAD = f"""
import sys
from ray.cluster_utils import Cluster
made = Cluster(initialize_head=True, head_node_args=dict(
    num_cpus=1, node_ip_address="127.0.0.1", gcs_server_port={PORT},
    include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port={PORT + 500},
    dashboard_agent_listen_port={PORT + 1000},  # whose own is that of every Ray on a machine
))
print("up", flush=True)
sys.stdin.read()
made.shutdown()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A head that asks for a token, and its home folder.

    It runs in a small environment that sees the packages of this one: where requirements are to be installed, Ray
    copies the whole environment that it runs in.
    """
    home = tmp_path_factory.mktemp("home")
    token = home / "token"
    token.write_text("a-token-of-this-test", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "environment"], check=True)
    (packages,) = (home / "environment").glob("lib/*/site-packages")
    (packages / "those_of_the_tests.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    programs = home / "environment" / "bin"
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {
        **os.environ,
        **settings,
        "HOME": str(home),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else its parts look for it on the outer address
    }
    environment.pop("PYTHONPATH", None)  # autoprune comes with the job
    head = subprocess.Popen(
        [programs / "python", "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=home,
    )
    assert head.stdout is not None and any(line == "up\n" for line in head.stdout)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield home
    head.communicate("", timeout=60)


def autoprune(*arguments: object, code: int = 0) -> str:
    """What the command line prints, in a process of its own, as a user would call it."""
    done = subprocess.run(
        [sys.executable, "-m", "autoprune.cli", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def described(job: str) -> dict[str, Any]:
    """What is known of a job; Ray reads a token once for each process, and this one may have read another."""
    found: dict[str, Any] = json.loads(autoprune("status", job, "--address", ADDRESS, "--json"))
    return found


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / TASK.name).write_text(TASK.read_text(), encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")
    return folder / "tiny.yaml"


def wheel(folder: Path) -> Path:
    """A package to be installed, without asking a registry for it."""
    path = folder / "only_there-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("only_there.py", "")
        about = "only_there-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: only-there\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.mark.slow
def test_a_search_is_submitted_followed_asked_for_and_stopped(home: Path, tmp_path: Path) -> None:
    spec = written(tmp_path / "spec")
    with spec.with_name(TASK.name).open("a", encoding="utf-8") as task:
        task.write("\nimport only_there\n")  # on the workers as on the head
    needed = tmp_path / "requirements.txt"
    needed.write_text(f"{wheel(tmp_path)}\n", encoding="utf-8")
    printed = autoprune("submit", spec, "--address", ADDRESS, "--requirements", needed)
    job, *rest = printed.splitlines()
    assert "succeeded" in rest[-1] and any("trials 3" in line for line in rest)
    found = described(job)
    assert (found["state"], found["status"]["trials"]["finished"]) == ("succeeded", 3)
    run = Path(found["run"].replace("~", str(home)))
    assert json.loads(autoprune("status", run, "--json"))["state"] == "finished"
    autoprune("report", run)
    secret = b"a-token-of-this-test"
    assert not any(secret in path.read_bytes() for path in run.rglob("*") if path.is_file())

    long = written(tmp_path / "long", budget={"minutes": 30})
    job = autoprune("submit", long, "--address", ADDRESS, "--detach").strip()
    end = time.monotonic() + 120
    while described(job)["status"] is None and time.monotonic() < end:
        time.sleep(1)
    assert "stopped" in autoprune("stop", job, "--address", ADDRESS)
    run = Path(described(job)["run"].replace("~", str(home)))
    assert json.loads(autoprune("status", run, "--json"))["state"] == "interrupted"
    before = json.loads(autoprune("status", run, "--json"))["trials"]["finished"]
    job = autoprune("submit", long, "--address", ADDRESS, "--resume", "--run", run, "--detach").strip()
    end = time.monotonic() + 120
    while (
        json.loads(autoprune("status", run, "--json"))["trials"]["finished"] <= before
        and time.monotonic() < end
    ):
        time.sleep(1)
    autoprune("stop", job, "--address", ADDRESS)
    assert json.loads(autoprune("status", run, "--json"))["trials"]["finished"] > before
    assert "expected a job of" in autoprune("status", "nothing", "--address", ADDRESS, code=2)


@pytest.mark.slow
def test_requirements_that_cannot_be_installed_are_reported(home: Path, tmp_path: Path) -> None:
    needed = tmp_path / "requirements.txt"
    needed.write_text("--no-index\nno-such-package-anywhere\n", encoding="utf-8")
    said = autoprune(
        "submit", written(tmp_path / "s"), "--address", ADDRESS, "--requirements", needed, code=2
    )
    assert "could not begin" in said and "no-such-package-anywhere" in said and "Traceback" not in said


def test_what_is_shipped_are_the_files_beside_the_spec_and_autoprune(tmp_path: Path) -> None:
    folder, to = tmp_path / "from", tmp_path / "to"
    for name in ("task.py", "data/x.npz", ".git/config", "runs/a/study.journal", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    (folder / "link").symlink_to("/etc/passwd")
    to.mkdir()
    assert stage(folder, to)[0] == 2
    there = {path.relative_to(to).parts[0] for path in to.rglob("*")}
    assert there == {"task.py", "data", "autoprune"}
    assert (to / "autoprune" / "search_spaces" / "digits.yaml").is_file()


def test_a_folder_that_is_no_spec_s_own_is_not_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.cluster.jobs.MOST_BYTES", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(BadInput, match="put the spec and its files into a folder of their own"):
        stage(tmp_path, tmp_path / "to")


def test_everything_that_is_wrong_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    elsewhere = {**SPEC, "task": f"{TASK}:TinyTask"}
    spec = written(tmp_path / "spec", task=elsewhere["task"])
    with pytest.raises(BadInput) as raised:
        submission.submit(spec, ADDRESS, run="runs/a", requirements=tmp_path / "none.txt")
    assert all(
        part in str(raised.value) for part in ("lies outside", "expected a folder on the head", "none.txt")
    )
    with pytest.raises(BadInput, match="run: got nothing.*\n.*trials: got a value, expected none"):
        submission.submit(spec, ADDRESS, resume=True, trials=3)
    with pytest.raises(BadInput, match="no Ray cluster answers there"):
        submission.submit(written(tmp_path / "spec"), "127.0.0.1:1")


def test_what_pip_said_is_the_reason() -> None:
    message = "Failed to set up runtime environment.\n...\nERROR: No matching distribution found for nosuch\n"
    assert "installed there: No matching distribution" in reason_of(
        Job("a", "failed", message, "", None, 0.0)
    )
