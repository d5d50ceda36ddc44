"""The one door to NNI: a module of it is imported when it is first used, and stays quiet.

Only what can be driven directly is used: its model spaces, four of its tuners and two of its assessors. Its manager is
never started, and neither `nni.load` nor a checkpoint of its hub is ever called, since these run pickles.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from autoprune.errors import MissingExtra

NEEDED = {"nni": "nni", "pytorch_lightning": "pytorch-lightning"}


def nni_module(name: str, what: str) -> ModuleType:
    """A module of NNI.

    Args:
        name: `nni.nas.hub.pytorch`.
        what: needs it, as the user wrote it.

    Raises:
        MissingExtra: NNI is not installed, or cannot be imported.
    """
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise MissingExtra(f"{what} needs {' and '.join(missing)}: pip install 'autoprune[nni]'")
    try:
        # It writes to the standard output, where the JSON of our commands goes.
        import_module("nni").silence_stdout()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it does not know the newest classes of torch
            return import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"{what}: NNI cannot be imported ({error}): pip install 'autoprune[nni]'"
        ) from error
