"""The public face."""

from __future__ import annotations

import subprocess
import sys

import autoprune


def test_the_face_is_small_sorted_and_there() -> None:
    names = [name for name in autoprune.__all__ if not name.startswith("__")]
    assert len(names) <= 20
    assert names == sorted(names)
    assert all(getattr(autoprune, name).__doc__ for name in names)


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, autoprune; print([m for m in ('torch', 'ray', 'optuna', 'onnx') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(autoprune, "no_such_name")


def test_a_package_of_the_same_name_does_not_hide_a_function() -> None:
    import autoprune.export.artifact
    import autoprune.report.page
    import autoprune.search.loop
    from autoprune.search import profile

    assert all(callable(getattr(autoprune, name)) for name in ("search", "export", "report", "profile"))
    assert profile.make_profile
