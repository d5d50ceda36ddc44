"""Run an exported file in its own runtime with NumPy alone: `python -I run_file.py RUNTIME FILE`.

The parity gate starts this in a fresh process, as someone would run the artifact who has never heard of
autoprune; where the runtime lies in an environment of its own, with that environment's interpreter. It must not
import anything of autoprune. Each line of its input names two .npz files, separated by a tab: inputs by name, and
where the outputs go. It answers each with a line.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Model = tuple[dict[str, Any], Callable[[Arrays], Arrays]]
"""Input -> its size along the first axis where that is fixed, else None; and outputs by name from inputs by name."""


def open_onnx(file: str) -> Model:
    """By ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Exact on any processor; with VNNI the faster kernels are, too, but what counts here is what comes out.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    sizes = {
        value.name: value.shape[0] if value.shape and isinstance(value.shape[0], int) else None
        for value in session.get_inputs()
    }
    return sizes, lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def open_openvino(file: str) -> Model:
    """By OpenVINO, on the processor, floats as float32."""
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shapes = {port.any_name: port.partial_shape for port in compiled.inputs}
    sizes = {
        name: shape[0].get_length() if len(shape) and shape[0].is_static else None
        for name, shape in shapes.items()
    }

    def run(inputs: Arrays) -> Arrays:
        found = compiled(inputs)
        return {port.any_name: found[port].copy() for port in compiled.outputs}

    return sizes, run


def open_torch(file: str) -> Model:
    """By torch alone: a program of torch.export, or one that AOTInductor compiled."""
    import torch

    if file.endswith(".aoti.pt2"):
        module: Any = torch._inductor.aoti_load_package(file)
        program = torch.export.load(file.replace(".aoti.pt2", ".pt2"))
    else:
        program = torch.export.load(file)
        module = program.module()
    names, shapes = _described(program)

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(inputs[name]) for name in names))
        return {f"#{i}": output.numpy() for i, output in enumerate(outputs)}

    return dict(zip(names, shapes, strict=True)), run


def _described(program: Any) -> tuple[list[str], list[Any]]:
    """Names of the inputs as the file has them, and their first sizes where these are fixed."""
    import torch

    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    given = [node for node in nodes if node.name in program.graph_signature.user_inputs]
    shapes = [node.meta["val"].shape for node in given]
    sizes = [shape[0] if len(shape) and not isinstance(shape[0], torch.SymInt) else None for shape in shapes]
    return [f"#{i}" for i in range(len(given))], sizes


def open_qonnx(file: str) -> Model:
    """By QONNX's own library, node by node."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(file))
    shapes = {value.name: model.get_tensor_shape(value.name) for value in model.graph.input}
    sized = {1: model}

    def run(inputs: Arrays) -> Arrays:
        count = len(next(iter(inputs.values())))
        if count not in sized:
            sized[count] = model.transform(ChangeBatchSize(count)).transform(InferShapes())
        return dict(execute_onnx(sized[count], inputs))

    try:  # some networks have the batch size written into them
        run({name: np.zeros((2, *shape[1:]), np.float32) for name, shape in shapes.items()})
        takes = None
    except Exception:
        takes = 1
    return dict.fromkeys(shapes, takes), run


def open_executorch(file: str) -> Model:
    """By ExecuTorch's runtime, which takes tensors of torch, one example at a time."""
    import executorch.kernels.quantized  # noqa: F401  (registers operations)
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    count = method.metadata.num_inputs()

    def run(inputs: Arrays) -> Arrays:
        given = [torch.from_numpy(np.ascontiguousarray(inputs[f"#{i}"])) for i in range(count)]
        return {f"#{i}": output.numpy().copy() for i, output in enumerate(method.execute(given))}

    return {f"#{i}": 1 for i in range(count)}, run


def open_litert(file: str) -> Model:
    """By LiteRT's interpreter, one example at a time; integers at its borders are rounded and scaled here."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=file, num_threads=1)
    runner = interpreter.get_signature_runner()
    given, made = runner.get_input_details(), runner.get_output_details()
    names = sorted(given)  # args_0, args_1, ...

    def codes(array: Any, details: Any) -> Any:
        scale, zero = details["quantization"]
        if not scale:
            return array
        limits = np.iinfo(details["dtype"])
        return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(details["dtype"])

    def values(array: Any, details: Any) -> Any:
        scale, zero = details["quantization"]
        return (array.astype(np.float32) - zero) * np.float32(scale) if scale else array

    def run(inputs: Arrays) -> Arrays:
        found = runner(**{name: codes(inputs[f"#{i}"], given[name]) for i, name in enumerate(names)})
        return {f"#{i}": values(found[name], made[name]) for i, name in enumerate(sorted(found))}

    return {f"#{i}": 1 for i in range(len(names))}, run


def open_savedmodel(file: str) -> Model:
    """By TensorFlow, one example at a time."""
    import tarfile
    import tempfile

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
        loaded = tensorflow.saved_model.load(f"{folder}/saved_model")
    function = loaded.signatures["serving_default"]
    names = sorted(function.structured_input_signature[1])

    def run(inputs: Arrays, _kept: Any = loaded) -> Arrays:
        found = function(**{name: tensorflow.constant(inputs[f"#{i}"]) for i, name in enumerate(names)})
        return {f"#{i}": found[name].numpy() for i, name in enumerate(sorted(found))}

    return {f"#{i}": 1 for i in range(len(names))}, run


def open_hls4ml(file: str) -> Model:
    """By the project's own C++ as g++ compiles it: the arithmetic of the circuit, without a vendor's tool."""
    import ctypes
    import json
    import subprocess
    import tarfile
    import tempfile
    from pathlib import Path

    folder = tempfile.TemporaryDirectory(prefix="autoprune-")
    with tarfile.open(file) as archive:
        archive.extractall(folder.name, filter="data")
    project = Path(folder.name, "project")
    built = subprocess.run(["bash", "build_lib.sh"], cwd=project, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        sys.exit(
            f"g++ cannot compile the project: {(built.stderr.strip().splitlines() or ['no message'])[0]}"
        )
    library = ctypes.CDLL(str(next(project.glob("firmware/*.so"))))
    ports = json.loads((project / "interface.json").read_text(encoding="utf-8"))

    def run(inputs: Arrays, _kept: Any = folder) -> Arrays:
        given = [inputs[one["name"]].transpose(one["axes"]) for one in ports["inputs"]]
        count = len(given[0])
        made = [np.zeros((count, *one["shape"][1:]), np.float32) for one in ports["outputs"]]
        for i in range(count):
            arrays = [np.ascontiguousarray(one[i], np.float32) for one in given] + [
                one[i : i + 1] for one in made
            ]
            library.network_float(*(one.ctypes.data_as(ctypes.c_void_p) for one in arrays))
        return {one["name"]: array for one, array in zip(ports["outputs"], made, strict=True)}

    return {one["name"]: None for one in ports["inputs"]}, run


RUNTIMES: dict[str, tuple[Callable[[str], Model], tuple[str, ...]]] = {
    "onnxruntime": (open_onnx, ("torch", "autoprune")),
    "openvino": (open_openvino, ("torch", "autoprune")),
    "torch": (open_torch, ("autoprune",)),
    "executorch": (open_executorch, ("autoprune",)),
    "litert": (open_litert, ("torch", "autoprune")),
    "savedmodel": (open_savedmodel, ("torch", "autoprune")),
    "qonnx": (open_qonnx, ("torch", "autoprune")),
    "hls4ml": (open_hls4ml, ("torch", "autoprune")),
}
"""Name -> what opens a file, and the packages that must not have been loaded for it."""


def main(runtime: str, file: str) -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints, in whatever language, does not answer for us
    sizes, run = RUNTIMES[runtime][0](file)
    for line in sys.stdin:
        given, made = line.rstrip("\n").split("\t")
        with np.load(given, allow_pickle=False) as arrays:
            inputs = _wanted(dict(arrays), list(sizes))
        np.savez(made, **run_all(sizes, run, inputs))
        print("done", file=answers, flush=True)


def _wanted(arrays: Arrays, names: list[str]) -> Arrays:
    """The inputs that a file knows: by name, or in their order where it numbers them."""
    if all(name in arrays for name in names):
        return {name: arrays[name] for name in names}
    return dict(zip(names, arrays.values(), strict=True))


def run_all(sizes: dict[str, Any], run: Callable[[Arrays], Arrays], inputs: Arrays) -> Arrays:
    """Outputs by name; a file that takes one example at a time is given one at a time."""
    fixed = {name for name, size in sizes.items() if size == 1 and len(inputs[name]) > 1}
    if not fixed:
        return run(inputs)
    count = len(inputs[next(iter(fixed))])
    parts = []
    for i in range(count):
        one = {name: array[i : i + 1] if name in fixed else array for name, array in inputs.items()}
        parts.append(run(one))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    loaded = [name for name in RUNTIMES[sys.argv[1]][1] if name in sys.modules]
    if loaded:
        sys.exit(f"{' and '.join(loaded)} got loaded: this run proves nothing")
