"""What the READMEs show can be copied and runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import autoprune
from autoprune.cli import app
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.references import search_spaces_folder
from autoprune.space import Space
from autoprune.spec import load_spec

README = Path(__file__).parents[1] / "README.md"
SPACES = search_spaces_folder() / "README.md"


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def block(document: Path, language: str, mark: str) -> str:
    """The one block in which `mark` appears."""
    (found,) = [text for text in blocks(document, language) if mark in text]
    return found


@pytest.mark.parametrize("document", [README, SPACES], ids=["readme", "search_spaces"])
def test_every_spec_is_valid(document: Path, tmp_path: Path) -> None:
    (tmp_path / "two_moons.py").write_text(block(SPACES, "python", "TwoMoons"))
    specs = blocks(document, "yaml")
    assert specs
    for number, text in enumerate(specs):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert load_spec(path).budget is not None


@pytest.mark.parametrize("line", [line for text in blocks(README, "bash") for line in text.splitlines()])
def test_every_command_has_the_options_shown(line: str) -> None:
    name, *words = line.split("#")[0].split() or ["", ""]
    if name != "autoprune":
        return
    shown = CliRunner().invoke(app, [words[0], "--help"])
    assert shown.exit_code == 0
    assert [word for word in words if word.startswith("--") and word not in shown.output] == []


@pytest.mark.parametrize(
    ("document", "name"), [(README, "MyTask"), (SPACES, "TwoMoons")], ids=["readme", "search_spaces"]
)
def test_the_tasks_keep_the_contract(document: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block(document, "python", f"class {name}("))
    checks = autoprune.check(f"mine.py:{name}", tmp_path)
    assert checks and [check for check in checks if not check.ok] == []


def test_the_task_of_the_readme_becomes_a_candidate(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block(README, "python", "class MyTask("))
    spec = {
        "task": f"{tmp_path / 'mine.py'}:MyTask",
        "space": {"architecture": {"width": [8, 12, 16]}, "prune": True, "quantize": True},
        "target": {"use": "onnxruntime", "rounds": 4, "block_ms": 2.0},
        "train": {"epochs": 1},
        "budget": {"trials": 1},
    }
    evaluator = Evaluator(load_spec(spec))
    evaluator.attach_data(None)
    evaluator.attach_reference(evaluator.train_reference())
    space = Space.from_json(evaluator.describe()["choices"])
    point = {name: 0.5 if name.endswith(".ratio") else value for name, value in space.neutral().items()}
    whole = evaluator.evaluate(Request(0, 0, space.neutral()))
    halved = evaluator.evaluate(Request(1, 0, {**point, "architecture.width": 12}))
    assert whole.state == halved.state == "finished"
    assert halved.metrics["params"] < 0.3 * whole.metrics["params"]
