"""From a string to an object."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import UnresolvedReference
from autoprune.references import find_file, nearest, resolve, search_spaces_folder, wrong_arguments


def test_a_built_in_name_leads_to_its_object() -> None:
    assert resolve("root", builtins={"root": "math:sqrt"})(9) == 3


def test_a_dotted_attribute_is_followed() -> None:
    assert resolve("pathlib:Path.cwd")() == Path.cwd()


def test_a_file_is_found_relative_to_the_folder_and_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Net:\n    size = 3\n")
    assert resolve("mine.py:Net", folder=tmp_path).size == 3
    assert resolve("mine.py:Net", folder=tmp_path) is resolve("mine.py:Net", folder=tmp_path)


def test_a_ready_space_is_found_without_a_folder() -> None:
    path = find_file("resnet.py:resnet")
    assert path is not None and path.parent == search_spaces_folder()


def test_a_module_reference_has_no_file() -> None:
    assert find_file("math:sqrt") is None


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("digit", "did you mean 'digits'"),
        ("mine.py:Nte", "did you mean 'Net'"),
        ("mime.py:Net", "did you mean 'mine.py'"),
        ("no_such_package_here:x", "cannot import"),
        ("broken.py:x", "ZeroDivisionError"),
        (":x", "not a known name"),
    ],
)
def test_what_leads_nowhere_is_said_with_the_nearest_name(tmp_path: Path, reference: str, said: str) -> None:
    (tmp_path / "mine.py").write_text("class Net: pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UnresolvedReference, match=said):
        resolve(reference, folder=tmp_path, builtins={"digits": "a:b"})


def test_a_file_that_failed_to_load_can_be_mended_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "again.py"
    path.write_text("raise ValueError\n")
    with pytest.raises(UnresolvedReference):
        resolve("again.py:x", folder=tmp_path)
    path.write_text("x = 1\n")
    assert resolve("again.py:x", folder=tmp_path) == 1


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("banana", ["ratio", "depth"]) == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"width": 1}, ""),
        ({"widht": 1}, "unknown argument 'widht', expected width, depth; did you mean 'width'?"),
        ({"depth": 1}, "missing a required argument: 'width'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments: dict[str, int], problem: str) -> None:
    def make(width: int, depth: int = 1) -> int:
        return width * depth

    found = wrong_arguments(make, arguments)
    assert problem in found and bool(found) == bool(problem)
