"""Environments of their own: not made on the way, and what goes wrong in them is a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoprune.errors import BadInput, MissingExtra, TargetError
from autoprune.targets import environment
from autoprune.targets.environment import ask, folder_of, make, python_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))


def script(folder: Path, code: str) -> Path:
    path = folder / "script.py"
    path.write_text(code)
    return path


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """This interpreter in the place of one that was made."""
    monkeypatch.setattr(environment, "python_of", lambda name: sys.executable)


def test_one_that_was_not_made_is_refused_with_the_command() -> None:
    with pytest.raises(MissingExtra, match=r"450 MB.*python -m autoprune\.targets\.environment zigzag"):
        python_of("zigzag")


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'zigzag'"):
        make("zigzagg")


@pytest.mark.slow
def test_nothing_is_left_of_one_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = environment.Environment(("./no/such/package",), "0 MB")
    monkeypatch.setitem(environment.ENVIRONMENTS, "broken", broken)
    with pytest.raises(TargetError, match="the environment broken cannot be made"):
        make("broken")
    assert not folder_of("broken").exists()


@pytest.mark.slow
def test_an_empty_one_is_made_once_and_has_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.ENVIRONMENTS, "pip", environment.Environment(("pip",), "20 MB"))
    folder = make("pip")
    assert make("pip") == folder
    assert Path(python_of("pip")).is_relative_to(folder)


@pytest.mark.usefixtures("ours")
def test_a_script_answers_on_its_last_line(tmp_path: Path) -> None:
    code = "import json, sys; print('loading'); print(json.dumps({'got': json.load(sys.stdin)}))"
    assert ask("zigzag", script(tmp_path, code), [1, 2], 60.0) == {"got": [1, 2]}


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('too large')", "zigzag failed: ValueError: too large"),
        ("print('done')", "printed 'done.n', expected JSON"),
        ("import time; time.sleep(60)", "no answer in 0.5 s"),
    ],
)
def test_what_goes_wrong_is_a_sentence(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(TargetError, match=message.replace(".n'", r"\\n'")):
        ask("zigzag", script(tmp_path, code), {}, 0.5 if "sleep" in code else 60.0)
