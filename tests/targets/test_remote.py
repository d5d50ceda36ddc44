"""A device behind a command: what it prints, what it costs when it fails or hangs, and who waits for it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError, TargetError
from autoprune.targets import load_target, remote
from autoprune.targets.remote import Remote, read_answer

RUNNABLE = SimpleNamespace(files={"model.onnx": b"12345", "weights.bin": b"6"})


def device(code: str, **arguments: Any) -> Remote:
    return Remote([sys.executable, "-c", code, "{file}"], **{"retries": 0, **arguments})


def measured(code: str, **arguments: Any) -> Any:
    return device(code, **arguments).measure(RUNNABLE, None)  # type: ignore[arg-type]


def test_the_command_gets_the_file_and_its_last_line_counts() -> None:
    code = (
        "import sys, pathlib; print('hello'); size = len(pathlib.Path(sys.argv[1]).read_bytes());"
        "print('{\"latency_ms\":', size, '}')"
    )
    found = measured(code)
    assert found.latency_ms == 5.0
    assert not found.unstable


def test_further_numbers_are_metrics_and_say_that_they_are_measured() -> None:
    found = read_answer('{"latency_ms": 2, "energy_uj": 30, "spread": 0.01}')
    assert found.metrics == {"latency_ms": 2.0, "energy_uj": 30.0}
    assert found.sources["energy_uj"].startswith("measured")


def test_of_times_the_minimum_counts_and_halves_that_differ_are_unstable() -> None:
    assert read_answer('{"times_ms": [2.0, 2.05, 3, 2.1]}').spread == pytest.approx(0.025)
    assert read_answer('{"times_ms": [2.0, 3.0, 2.0, 3.0]}').unstable


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("Segmentation fault", "printed 'Segmentation fault', expected a JSON object"),
        ("", "expected a JSON object"),
        ("[1]", "expected a JSON object"),
        ('{"latency_ms": 0}', "latency_ms: got 0"),
        ('{"latency_ms": NaN}', "latency_ms: got nan"),
        ('{"latency_ms": true}', "latency_ms: got True"),
        ('{"latency_ms": 1, "energy_uj": -1}', "energy_uj: got -1"),
        ('{"times_ms": []}', "times_ms: expected"),
        ("[" * 100000, "expected a JSON object"),
    ],
)
def test_what_is_no_answer_is_refused(printed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_answer(printed)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no route to host')", "ended with code 1: no route to host"),
        ("print('busy')", "printed 'busy'"),
    ],
)
def test_a_command_that_fails_is_told_with_its_words(code: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        measured(code)


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(tmp_path / 'alive')!r}).touch()"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    with pytest.raises(TargetError, match=r"no answer in 0\.7 s"):
        measured(code, time_limit=0.7)
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()


def test_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    code = (
        f"import pathlib; p = pathlib.Path({str(tmp_path / 'once')!r}); there = p.exists(); p.touch();"
        "print('{\"latency_ms\": 1}' if there else '?')"
    )
    assert measured(code, retries=1).latency_ms == 1.0


def test_a_clock_that_throttles_is_measured_again_and_then_marked(tmp_path: Path) -> None:
    code = (
        f"import pathlib; p = pathlib.Path({str(tmp_path / 'n')!r}); n = len(p.read_text()) if p.exists() else 0;"
        "p.write_text('x' * (n + 1)); print('{\"latency_ms\": 1, \"spread\": ' + str(0.5 - n / 10) + '}')"
    )
    found = measured(code)
    assert (tmp_path / "n").read_text() == "xxx"
    assert found.unstable
    assert found.spread == pytest.approx(0.3)


def test_a_device_that_is_busy_for_too_long_is_told() -> None:
    from filelock import FileLock

    one = device("print(1)", queue_limit=0.2)
    with (
        FileLock(Path(remote.tempfile.gettempdir()) / f"autoprune-device-{one.machine_key()}.lock"),
        pytest.raises(TargetError, match=r"busy for 0\.2 s"),
    ):
        one.measure(RUNNABLE, None)  # type: ignore[arg-type]


def test_a_file_larger_than_the_memory_is_refused() -> None:
    target = load_target("remote", None, {"command": "true", "memory_bytes": 100, "weight_bits": [8]})
    assert target.weight_bits == (8,)
    with pytest.raises(ModelError, match=r"the file has \d+ bytes, the device holds 100"):
        target.build(nn.Sequential(nn.Linear(4, 4)).eval(), torch.zeros(1, 4))


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": ""},
        {"command": "x", "time_limit": 0},
        {"command": "x", "retries": -1},
        {"command": "x", "runs": "tf"},
        {"command": "x", "memory_bytes": 1.5},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=r"target\.\w+: got"):
        load_target("remote", None, arguments)
