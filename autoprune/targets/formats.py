"""The files that an artifact can hold beside its weights, by the name of `--format`.

A format says how its files are written from the deployed candidate, and what runs them: the parity gate starts
`run_file.py` with it, in a process that knows neither torch nor autoprune where the runtime needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from autoprune.errors import AutopruneError, BadInput, MissingExtra, ModelError
from autoprune.references import nearest
from autoprune.targets.converted import (
    EXECUTORCH,
    EXECUTORCH_FILE,
    LITERT,
    LITERT_FILE,
    SAVED_MODEL_FILE,
    to_executorch,
    to_litert,
    to_savedmodel,
)
from autoprune.targets.environment import python_of
from autoprune.targets.hls4ml import ENVIRONMENT as HLS4ML
from autoprune.targets.hls4ml import PROJECT_FILE, to_hls4ml
from autoprune.targets.onnx_graph import to_onnx
from autoprune.targets.onnxruntime import MODEL_FILE as ONNX_FILE
from autoprune.targets.openvino import MODEL_FILE as OPENVINO_FILE
from autoprune.targets.openvino import to_openvino
from autoprune.targets.qonnx import MODEL_FILE as QONNX_FILE
from autoprune.targets.qonnx import to_qonnx
from autoprune.targets.stopwatch import require
from autoprune.targets.torch_export import COMPILED_FILE, compiled, to_program
from autoprune.targets.torch_export import MODEL_FILE as TORCH_FILE
from autoprune.tensors import Inputs

Files = Mapping[str, bytes]


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        file: the one that a runtime opens.
        write: the files, from a deployed module, inputs of batch size 1, and the files of the target's own runnable.
        runtime: of `run_file.RUNTIMES`.
        environment: in which this runtime lies, of `targets.environment.ENVIRONMENTS`; empty: in ours.
        package: that it needs in ours; an extra of the same name.
    """

    file: str
    write: Callable[[nn.Module, Inputs, Files], Files]
    runtime: str
    environment: str = ""
    package: str = ""

    def check_ready(self, name: str) -> None:
        """Refuse a format whose runtime is not installed.

        Raises:
            MissingExtra: with the command that installs it.
        """
        if self.environment:
            python_of(self.environment)
        if self.package:
            require(name, self.package, extra=self.package)

    @property
    def python(self) -> str:
        """The interpreter that has the runtime.

        Raises:
            MissingExtra: its environment was not made yet.
        """
        return python_of(self.environment) if self.environment else sys.executable


def _onnx(model: nn.Module, example: Inputs, _own: Files) -> Files:
    return {ONNX_FILE: to_onnx(model, example).content}


def _openvino(model: nn.Module, example: Inputs, _own: Files) -> Files:
    return to_openvino(to_onnx(model, example).content)


def _torch_export(model: nn.Module, example: Inputs, _own: Files) -> Files:
    return to_program(model, example).files


def _aotinductor(model: nn.Module, example: Inputs, _own: Files) -> Files:
    return compiled(model, example)


def _qonnx(model: nn.Module, example: Inputs, _own: Files) -> Files:
    return {QONNX_FILE: to_qonnx(model, example)}


FORMATS: dict[str, Format] = {
    "onnx": Format(ONNX_FILE, _onnx, "onnxruntime"),
    "openvino": Format(OPENVINO_FILE, _openvino, "openvino", package="openvino"),
    "torch_export": Format(TORCH_FILE, _torch_export, "torch"),
    "aotinductor": Format(COMPILED_FILE, _aotinductor, "torch"),
    "qonnx": Format(QONNX_FILE, _qonnx, "qonnx", HLS4ML),
    "executorch": Format(EXECUTORCH_FILE, to_executorch, "executorch", EXECUTORCH),
    "litert": Format(LITERT_FILE, to_litert, "litert", LITERT),
    "savedmodel": Format(SAVED_MODEL_FILE, to_savedmodel, "savedmodel", LITERT),
    "hls4ml": Format(PROJECT_FILE, to_hls4ml, "hls4ml", HLS4ML),
}
WEIGHTS_ONLY = "safetensors"
"""The artifact without any file of a runtime: its weights and the graph that they belong to."""

FOLDERS = ("pretrained", "nni")
"""What is no artifact, and written by functions of their own (see `api.export`)."""


def check_formats(names: Sequence[str]) -> None:
    """Refuse names of no format.

    Raises:
        BadInput: with all of them.
    """
    known = (*FORMATS, WEIGHTS_ONLY)
    wrong = [name for name in names if name not in known]
    if wrong or (WEIGHTS_ONLY in names and len(names) > 1):
        given = ", ".join(wrong or names)
        rule = "" if wrong else f"; {WEIGHTS_ONLY} stands alone"
        others = " or ".join(FOLDERS)
        raise BadInput(
            f"export: got the format {given}; known are {', '.join(known)}, and alone {others}{rule}"
            f"{nearest(given, known)}"
        )


def unready(names: Sequence[str]) -> list[str]:
    """One line for each format whose packages or environment are not here."""
    problems = []
    for name in names:
        try:
            FORMATS[name].check_ready(name)
        except MissingExtra as error:
            problems.append(f"{name}: {error}")
    return problems


def unwritable(names: Sequence[str], model: nn.Module, example: Inputs, own: Files) -> list[str]:
    """One line for each format that cannot carry a model; arguments as for `files_of`."""
    problems = []
    for name in names:
        try:
            files_of([name], model, example, own)
        except AutopruneError as error:
            problems.append(str(error))
    return problems


def files_of(names: Sequence[str], model: nn.Module, example: Inputs, own: Files) -> Files:
    """The files of these formats.

    Args:
        names: of formats; none: what the target itself runs.
        model: deployed, in eval mode.
        example: inputs of batch size 1.
        own: files of the target's runnable, which are not written again.

    Raises:
        ModelError: a format cannot carry the model; the message says which, and all of them.
    """
    if not names:
        return own
    found: dict[str, bytes] = {}
    problems = []
    for name in names:
        if name == WEIGHTS_ONLY:
            continue
        if FORMATS[name].file in own:
            found |= own
            continue
        try:
            found |= FORMATS[name].write(model, example, own)
        except ModelError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ModelError("\n".join(problems))
    return found


def formats_in(folder: Path) -> dict[str, Format]:
    """The formats of which an artifact holds the file."""
    return {name: one for name, one in FORMATS.items() if (folder / one.file).exists()}
