"""On what a candidate runs: one target per file, each on the contract of `target.Target`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutopruneError, TargetError, raised
from autoprune.references import resolve, wrong_arguments
from autoprune.targets.target import Measurement, Runnable, Target

BUILT_IN = {"onnxruntime": "autoprune.targets.onnxruntime:OnnxRuntime"}

__all__ = ["BUILT_IN", "Measurement", "Runnable", "Target", "load_target"]


def load_target(
    reference: str, folder: Path | None = None, arguments: Mapping[str, Any] | None = None
) -> Target:
    """The target that a spec names, called with the arguments given there.

    Raises:
        UnresolvedReference: there is no such target.
        TargetError: it cannot be constructed, or it is no target.
    """
    found = resolve(reference, folder=folder, builtins=BUILT_IN)
    if isinstance(found, type) and (problem := wrong_arguments(found, arguments or {})):
        raise TargetError(f"target {reference!r}: {problem}")
    try:
        target = found(**dict(arguments or {})) if isinstance(found, type) else found
    except AutopruneError:
        raise
    except Exception as error:
        raise TargetError(f"target {reference!r} {raised(error)}") from error
    missing = [
        name
        for name in ("weight_bits", "activation_bits", "supports", "build", "measure")
        if not hasattr(target, name)
    ]
    if missing:
        raise TargetError(f"target {reference!r} has no {', '.join(missing)} (see autoprune.targets.Target)")
    made: Target = target
    return made
