"""On what a candidate runs: one target per file, each on the contract of `target.Target`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutopruneError, TargetError, raised
from autoprune.references import resolve, wrong_arguments
from autoprune.spec.sections import RESOURCE, TIMED
from autoprune.targets.several import Several
from autoprune.targets.target import Measurement, Runnable, Target

if TYPE_CHECKING:
    from autoprune.spec import Spec

BUILT_IN = {
    "onnxruntime": "autoprune.targets.onnxruntime:OnnxRuntime",
    "openvino": "autoprune.targets.openvino:OpenVino",
    "torch": "autoprune.targets.torch_export:Torch",
    "table": "autoprune.targets.device_table:Table",
    "asic": "autoprune.targets.asic:Asic",
    "fpga": "autoprune.targets.fpga:Fpga",
    "remote": "autoprune.targets.remote:Remote",
}
FOLDER = "folder"

__all__ = ["BUILT_IN", "Measurement", "Runnable", "Several", "Target", "load_target", "load_targets"]


def load_targets(spec: Spec) -> Target:
    """The targets of a spec as one.

    Raises:
        UnresolvedReference, TargetError: one is not there, or cannot be made, or they have no bits in common.
    """
    made = {
        name: load_target(reference.use, spec.folder, reference.arguments)
        for name, reference in spec.target.items()
    }
    return Several(made) if len(made) > 1 else next(iter(made.values()))


def load_target(
    reference: str, folder: Path | None = None, arguments: Mapping[str, Any] | None = None
) -> Target:
    """The target that a spec names, called with the arguments given there.

    Raises:
        UnresolvedReference: there is no such target.
        TargetError: it cannot be constructed, or it is no target.
    """
    if reference in TIMED and RESOURCE in (arguments or {}):
        from autoprune.targets.elsewhere import Elsewhere

        others = {name: value for name, value in (arguments or {}).items() if name != RESOURCE}
        runtime: Any = load_target(reference, folder, others)
        return Elsewhere(runtime, (arguments or {})[RESOURCE])
    found = resolve(reference, folder=folder, builtins=BUILT_IN)
    if isinstance(found, type) and FOLDER in inspect.signature(found).parameters:
        arguments = {FOLDER: folder, **(arguments or {})}  # its files are relative to the spec, as all are
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
