"""From a QONNX file to a project of hls4ml: `python -I hls4ml_project.py`, one JSON object in, one out.

Runs in the environment that has hls4ml and qonnx, and must not import anything of autoprune. Input: `qonnx` (a file),
`project` (the archive to write), `reuse` (of each convolution and product with a matrix, in their order),
`nanoseconds` (of a clock cycle), `part` (of the vendor's) and `io` (`io_stream`, `io_parallel`). Output, on the last
line: `layers`, with what hls4ml made of each (`name`, `kind`, `reuse`), or `error`.

The archive is a folder `project`: what hls4ml wrote, and `interface.json` with the names, shapes and orders of the
axes of what goes in and comes out, which `run_file.py` compiles and runs without hls4ml.
"""

import contextlib
import json
import logging
import math
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

BACKEND = "Vitis"
WEIGHTED = ("Conv", "MatMul")
POOLS = ("AveragePool", "MaxPool")
MARK = "is_average"
SPARE_BITS = 16  # of an average, behind the bits of what it is the average of
EXACT = (
    64,
    24,
    True,
)  # holds every sum of products of 16 bits: where hls4ml does not find out a type by itself
KEEP_THE_GRID = ("Relu", "MaxPool")


def cleaned(path: str) -> Any:
    """The file with averages as pooling, channels last and products of matrices."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(path))
    pool_whole_images(model)
    round_before_flattening(model)
    if any(node.op_type in ("Conv", *POOLS) for node in model.graph.node):
        disguise_averages(model)
        model = model.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
    model = cleanup_model(model.transform(GemmToMatMul()))
    reveal_averages(model)
    return model


def pool_whole_images(model: Any) -> None:
    """Averages over whole images as pooling with a window of their size."""
    from onnx import helper

    for node in list(model.graph.node):
        shape = model.get_tensor_shape(node.input[0])
        is_mean = node.op_type == "ReduceMean" and len(shape or ()) == 4 and _axes(model, node) == [2, 3]
        if node.op_type != "GlobalAveragePool" and not is_mean:
            continue
        keeps = not is_mean or any(one.name == "keepdims" and one.i for one in node.attribute)
        between = node.output[0] if keeps else f"{node.output[0]}_pooled"
        window = {"kernel_shape": shape[2:], "strides": shape[2:], "pads": [0] * 2 * len(shape[2:])}
        made = [helper.make_node("AveragePool", node.input[:1], [between], **window)]
        if not keeps:
            model.set_tensor_shape(between, [*shape[:2], 1, 1])
            made.append(helper.make_node("Flatten", [between], list(node.output), axis=1))
        index = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for further, one in enumerate(made):
            model.graph.node.insert(index + further, one)


def round_before_flattening(model: Any) -> None:
    """Let what rounds a flattened image round the image: qonnx turns axes only where a product follows directly."""
    for node in [node for node in model.graph.node if node.op_type in ("Flatten", "Reshape")]:
        readers = model.find_consumers(node.output[0]) or []
        quant = readers[0] if len(readers) == 1 else None
        if (
            quant is None
            or quant.op_type != "Quant"
            or math.prod(model.get_tensor_shape(quant.input[1])) != 1
        ):
            continue
        image, flat, rounded = node.input[0], node.output[0], quant.output[0]
        model.set_tensor_shape(flat, model.get_tensor_shape(image))
        quant.input[0], quant.output[0] = image, flat
        node.input[0], node.output[0] = flat, rounded
        model.graph.node.remove(quant)
        model.graph.node.insert(list(model.graph.node).index(node), quant)


def disguise_averages(model: Any) -> None:
    """Let averages pass for maxima, of which qonnx knows how to turn the axes; the two take the same arguments."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "AveragePool":
            node.op_type = "MaxPool"
            for one in [one for one in node.attribute if one.name in ("count_include_pad", "ceil_mode")]:
                node.attribute.remove(one)
            node.attribute.append(helper.make_attribute(MARK, 1))


def reveal_averages(model: Any) -> None:
    """Undo `disguise_averages`."""
    for node in model.graph.node:
        marks = [one for one in node.attribute if one.name == MARK]
        if marks:
            node.op_type = "AveragePool"
            node.attribute.remove(marks[0])


def _axes(model: Any, node: Any) -> list[int]:
    """What a ReduceMean goes over: an attribute, later an input."""
    given = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if given is None and len(node.input) > 1:
        given = [int(axis) for axis in model.get_initializer(node.input[1])]
    return sorted(axis % 4 for axis in given or ())


def type_of(model: Any, quant: Any) -> tuple[int, int, bool]:
    """Width, integer bits and sign of what a `Quant` node gives."""
    scale, _, bits = (model.get_initializer(name) for name in quant.input[1:4])
    width = int(bits.item())
    signed = next(bool(attribute.i) for attribute in quant.attribute if attribute.name == "signed")
    return width, width + round(math.log2(float(scale.item()))), signed


def written(width: int, integer: int, signed: bool, rounding: str = "") -> str:
    """A fixed-point type as hls4ml's configuration has it."""
    return f"{'' if signed else 'u'}fixed<{width},{integer}{rounding}>"


def configured(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    """hls4ml's configuration: reuse of each layer, and types of what hls4ml does not find out by itself."""
    import hls4ml

    config: dict[str, Any] = hls4ml.utils.config.config_from_onnx_model(
        model, granularity="name", backend=BACKEND, default_precision=written(*EXACT)
    )
    config["Model"] |= {"Strategy": "Resource", "ReuseFactor": max(request["reuse"], default=1)}
    layers = config["LayerName"]
    nodes = [node for node in model.graph.node if node.op_type in WEIGHTED]
    if len(nodes) != len(request["reuse"]):
        raise ValueError(f"{len(nodes)} layers in the file, {len(request['reuse'])} in the network")
    for node, reuse in zip(nodes, request["reuse"], strict=True):
        # hls4ml 1.3 puts the weights of depthwise convolutions from ONNX files in a wrong order for `Resource`.
        is_depthwise = any(one.name == "group" and one.i > 1 for one in node.attribute)
        strategy = "Latency" if is_depthwise else "Resource"
        for name in layers:
            if name == node.name or name.endswith(f"_{node.name}"):
                layers[name] |= {"ReuseFactor": reuse, "Strategy": strategy}
    for given in model.graph.input:
        quant = model.find_consumer(given.name)
        if quant is None or quant.op_type not in ("Quant", "IntQuant"):
            raise ValueError(f"what goes in, {given.name}, is not rounded")
        layers.setdefault(given.name, {})["Precision"] = {
            "result": written(*type_of(model, quant), ",RND_CONV,SAT")
        }
    for node in model.graph.node:
        if node.op_type == "AveragePool":
            exact = written(*_average(model, node))
            layers.setdefault(node.name, {})["Precision"] = {"result": exact, "accum": exact}
    return config


def _average(model: Any, node: Any) -> tuple[int, int, bool]:
    """A type that holds a sum over the window, and its average to `SPARE_BITS` places more."""
    source = model.find_producer(node.input[0])
    while source is not None and source.op_type in KEEP_THE_GRID:
        source = model.find_producer(source.input[0])
    is_rounded = source is not None and source.op_type in ("Quant", "IntQuant")
    width, integer, signed = type_of(model, source) if is_rounded else EXACT
    window = next(attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape")
    more = math.ceil(math.log2(math.prod(window)))
    return width + more + SPARE_BITS, integer + more, signed


def write(request: dict[str, Any]) -> dict[str, Any]:
    """The archive, and what hls4ml says of its layers."""
    import hls4ml

    model = cleaned(request["qonnx"])
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        project = Path(folder, "project")
        made = hls4ml.converters.convert_from_onnx_model(
            model,
            output_dir=str(project),
            project_name="network",
            io_type=request["io"],
            backend=BACKEND,
            part=request["part"],
            clock_period=request["nanoseconds"],
            hls_config=configured(model, request),
        )
        made.write()
        (project / "interface.json").write_text(
            json.dumps(interface(request["qonnx"], model)), encoding="utf-8"
        )
        with tarfile.open(request["project"], "w:gz") as archive:
            archive.add(project, "project", filter=_anonymous)
        layers = [
            {"name": layer.name, "kind": layer.class_name, "reuse": layer.get_attr("reuse_factor")}
            for layer in made.get_layers()
            if layer.get_attr("weight_data") is not None
        ]
    return {"layers": layers}


def interface(file: str, model: Any) -> dict[str, Any]:
    """What goes in, and how its axes are ordered; what comes out, and its shape."""
    import onnx

    before = onnx.load(file).graph
    inputs = []
    for given, one in zip(before.input, model.graph.input, strict=True):
        sizes = [axis.dim_value for axis in given.type.tensor_type.shape.dim]
        turned = model.get_tensor_shape(one.name) != sizes
        last = [0, *range(2, len(sizes)), 1] if turned or len(sizes) > 2 else list(range(len(sizes)))
        inputs.append({"name": given.name, "axes": last})
    outputs = [
        {"name": made.name, "shape": [axis.dim_value for axis in made.type.tensor_type.shape.dim]}
        for made in before.output
    ]
    return {"inputs": inputs, "outputs": outputs}


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry of an archive without whose it was, and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    request = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            answer = write(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(answer))
