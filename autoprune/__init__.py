"""AutoML search for compressed neural networks: architecture, pruning, distillation and bits, jointly.

    study = autoprune.search("spec.yaml")
    best = study.best("accuracy >= baseline - 0.5", minimize="latency_ms")
    autoprune.export(best, "out/")
    model = autoprune.load("out/")

Importing this loads neither torch nor ray nor optuna; each name is fetched when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import (
        check,
        export,
        finish,
        open_study,
        profile,
        report,
        resume,
        revalidate,
        search,
    )
    from autoprune.compress.technique import Technique
    from autoprune.errors import AutopruneError
    from autoprune.stored import load
    from autoprune.task import Batch, ClassificationTask, Data, RegressionTask

__version__ = "0.1.0"

_HOME = {
    "AutopruneError": "autoprune.errors",
    "Batch": "autoprune.task",
    "ClassificationTask": "autoprune.task",
    "Data": "autoprune.task",
    "RegressionTask": "autoprune.task",
    "Technique": "autoprune.compress.technique",
    "check": "autoprune.api",
    "export": "autoprune.api",
    "finish": "autoprune.api",
    "load": "autoprune.stored",
    "open_study": "autoprune.api",
    "profile": "autoprune.api",
    "report": "autoprune.api",
    "resume": "autoprune.api",
    "retrain": "autoprune.api",
    "revalidate": "autoprune.api",
    "search": "autoprune.api",
}

__all__ = [
    "AutopruneError",
    "Batch",
    "ClassificationTask",
    "Data",
    "RegressionTask",
    "Technique",
    "__version__",
    "check",
    "export",
    "finish",
    "load",
    "open_study",
    "profile",
    "report",
    "resume",
    "retrain",
    "revalidate",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


class _Face(ModuleType):
    """This module. `search`, `export` and `report` are functions here, and packages to whoever imports from them.

    Importing a package binds it as an attribute of the one around it; without this, `autoprune.search` would turn
    from the function into the package as soon as the function has run. Write `from autoprune.search import loop`;
    `import autoprune.search.loop as loop` would look for `loop` on the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
