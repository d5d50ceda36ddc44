"""The runtimes whose speed is measured here: each opens a file and gives a function that runs it once.

Imported by the measuring process: nothing of torch is loaded before a file asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import ModelError
from autoprune.targets.processor import adds_bytes_exactly

Run = Callable[[], Any]
Inputs = Mapping[str, "np.ndarray[Any, Any]"]

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
"""Where a session runs -> ONNX Runtime's names, the one asked for first."""
EXACT_INTEGERS = ("session.x64quantprecision", "1")
"""Without VNNI, ONNX Runtime's faster integer kernels saturate at 16 bits and compute something else. This takes the
exact ones. With VNNI both are exact, and these take 2.3 times as long."""
SPARSE_ROWS, SPARSE_COLUMNS = 32, 64
"""Of what a matrix of 16-bit numbers needs multiples for torch's 2:4 sparse product."""


def open_session(content: bytes, threads: int, provider: str = "cpu") -> Any:
    """An ONNX Runtime session, on the processor or a device of `PROVIDERS`.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(content, session_options(threads), providers=PROVIDERS[provider])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load the model: {error}") from error


def session_options(threads: int) -> Any:
    """How ONNX Runtime runs a model here: by so many threads, integers by the fastest kernels that are exact."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what fails is raised
    if not adds_bytes_exactly():
        options.add_session_config_entry(*EXACT_INTEGERS)
    return options


def run_onnxruntime(file: Path, inputs: Inputs, threads: int, provider: str) -> Run:
    """An ONNX file by ONNX Runtime."""
    session = open_session(file.read_bytes(), threads, provider)
    feed = {value.name: inputs[value.name] for value in session.get_inputs()}
    return lambda: session.run(None, feed)


def compile_openvino(file: Path, threads: int) -> Any:
    """An intermediate representation, compiled for this processor, floats as float32.

    Raises:
        ModelError: OpenVINO refuses the model.
    """
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        return openvino.Core().compile_model(str(file), "CPU", settings)
    except Exception as error:
        raise ModelError(f"OpenVINO cannot load the model: {error}") from error


def run_openvino(file: Path, inputs: Inputs, threads: int, _provider: str) -> Run:
    """An intermediate representation (`.xml` beside its `.bin`) by OpenVINO."""
    compiled = compile_openvino(file, threads)
    request = compiled.create_infer_request()
    feed = {port.any_name: inputs[port.any_name] for port in compiled.inputs}
    return lambda: request.infer(feed)


def run_torch(file: Path, inputs: Inputs, threads: int, provider: str) -> Run:
    """A program of `torch.export`, operation by operation, by torch; on a graphics card as one CUDA graph."""
    import torch

    torch.set_num_threads(threads)
    program = torch.export.load(str(file))
    if provider != "cpu":
        return _captured(program, inputs)
    model = program.module()
    given = [torch.from_numpy(array) for array in inputs.values()]

    def run() -> Any:
        with torch.inference_mode():
            return model(*given)

    return run


def _captured(program: Any, inputs: Inputs) -> Run:
    """A program on the graphics card, captured once and replayed: Python launches no operation in between."""
    import torch
    from torch.export.passes import move_to_device_pass

    model = move_to_device_pass(program, "cuda").module()
    for name in sparse_weights(model):
        sparse: Any = torch.sparse.to_sparse_semi_structured(model.get_parameter(name).data)
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, torch.nn.Parameter(sparse, requires_grad=False))
    given = [torch.from_numpy(array).cuda() for array in inputs.values()]
    cuda: Any = torch.cuda
    graph, aside = cuda.CUDAGraph(), cuda.Stream()
    with torch.inference_mode():
        with cuda.stream(aside):  # memory and algorithms are settled before a capture
            for _ in range(3):
                model(*given)
        cuda.synchronize()
        with cuda.graph(graph):
            model(*given)

    def run() -> None:
        graph.replay()
        cuda.synchronize()

    return run


def sparse_weights(model: Any) -> list[str]:
    """Weights of a program that sparse tensor cores multiply: linear, in half precision, two of every four zero.

    Mishra et al., "Accelerating sparse deep neural networks", 2021, https://arxiv.org/abs/2104.08378.

    Args:
        model: module of a program of `torch.export`.
    """
    import torch

    linear = torch.ops.aten.linear.default
    found = []
    for name, weight in model.named_parameters():
        reads = [node for node in model.graph.find_nodes(op="get_attr") if node.target == name]
        users = [(user, node) for node in reads for user in node.users]
        is_half = weight.dtype in (torch.float16, torch.bfloat16) and weight.dim() == 2
        if not users or not is_half or any(u.target != linear or u.args[1] is not n for u, n in users):
            continue
        rows, columns = weight.shape
        fits = rows % SPARSE_ROWS == 0 and columns % SPARSE_COLUMNS == 0
        if fits and int((weight.view(rows, -1, 4) != 0).sum(2).max()) <= 2:
            found.append(name)
    return found


RUNTIMES: dict[str, Callable[[Path, Inputs, int, str], Run]] = {
    "onnxruntime": run_onnxruntime,
    "openvino": run_openvino,
    "torch": run_torch,
}
"""Name -> what opens a file: (file, inputs, threads, provider)."""
