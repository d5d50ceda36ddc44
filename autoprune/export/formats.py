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

from autoprune.errors import BadInput, ModelError
from autoprune.references import nearest
from autoprune.targets.onnx_graph import to_onnx
from autoprune.targets.onnxruntime import MODEL_FILE as ONNX_FILE
from autoprune.targets.openvino import MODEL_FILE as OPENVINO_FILE
from autoprune.targets.openvino import to_openvino
from autoprune.targets.torch_export import COMPILED_FILE, compiled, to_program
from autoprune.targets.torch_export import MODEL_FILE as TORCH_FILE
from autoprune.tensors import Inputs

Files = Mapping[str, bytes]


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        file: the one that a runtime opens.
        write: the files, from a deployed module and inputs of batch size 1.
        runtime: of `run_file.RUNTIMES`.
        python: the interpreter that has this runtime.
    """

    file: str
    write: Callable[[nn.Module, Inputs], Files]
    runtime: str
    python: Callable[[], str] = lambda: sys.executable


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ONNX_FILE, lambda model, example: {ONNX_FILE: to_onnx(model, example).content}, "onnxruntime"
    ),
    "openvino": Format(
        OPENVINO_FILE, lambda model, example: to_openvino(to_onnx(model, example).content), "openvino"
    ),
    "torch_export": Format(TORCH_FILE, lambda model, example: to_program(model, example).files, "torch"),
    "aotinductor": Format(COMPILED_FILE, compiled, "torch"),
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
            found |= FORMATS[name].write(model, example)
        except ModelError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ModelError("\n".join(problems))
    return found


def formats_in(folder: Path) -> dict[str, Format]:
    """The formats of which an artifact holds the file."""
    return {name: one for name, one in FORMATS.items() if (folder / one.file).exists()}
