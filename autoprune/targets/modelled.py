"""What targets that are not here have in common: accuracy is computed by a runtime that is, figures are modelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoprune.errors import TargetError
from autoprune.references import nearest, resolve
from autoprune.targets.target import Measurement, Runnable, Target

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tensors import Inputs

HOSTS = {
    "onnxruntime": "autoprune.targets.onnxruntime:OnnxRuntime",
    "openvino": "autoprune.targets.openvino:OpenVino",
    "torch": "autoprune.targets.torch_export:Torch",
}
"""What can compute accuracies for a device that is somewhere else."""


def host(runs: str) -> Target:
    """The runtime here that stands in for a device.

    Raises:
        TargetError: it is none of `HOSTS`.
    """
    if runs not in HOSTS:
        raise TargetError(
            f"target.runs: got {runs!r}, expected one of {', '.join(HOSTS)}{nearest(runs, HOSTS)}"
        )
    made: Target = resolve(HOSTS[runs])()
    return made


class Modelled:
    """A runnable of the host, and what the candidate takes on the device.

    Args:
        on: the host.
        model, example: as for `Target.build`.
        costs: metrics by name, `latency_ms` among them.
        files: what is written beside the host's.
    """

    def __init__(
        self,
        on: Target,
        model: nn.Module,
        example: Inputs,
        costs: Mapping[str, float],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        made: Runnable = on.build(model, example)
        self.files, self.run, self.costs = {**made.files, **(files or {})}, made.run, dict(costs)

    @classmethod
    def of(cls, runnable: Runnable) -> Modelled:
        """A runnable as what a modelled target built.

        Raises:
            TargetError: another target built it.
        """
        if not isinstance(runnable, cls):
            raise TargetError(
                f"a modelled target measures what it built itself, not {type(runnable).__name__}"
            )
        return runnable

    def measurement(self, sources: Mapping[str, str], spread: float = 0.0) -> Measurement:
        """The costs as a measurement that says where they are from."""
        figures = dict(self.costs)
        return Measurement(figures.pop("latency_ms"), spread=spread, figures=figures, sources=dict(sources))
