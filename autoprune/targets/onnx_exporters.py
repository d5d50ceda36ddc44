"""The exporters of torch, made to take any network.

The older one follows a run of the network and takes a tenth of a second; the newer one follows the tensors through
`torch.export`, knows more operations and takes seconds. Both see the network as a function of tensors one by one.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from autoprune.deployed.codebook import DOMAIN, CodebookLayer
from autoprune.deployed.kinds import FUNCTIONS
from autoprune.deployed.quantizers import ActivationQuantizer, QuantizedLayer, along, has_one_scale
from autoprune.targets.interface import Interface
from autoprune.tensors import Inputs, call, rebuild, tensors_in

if TYPE_CHECKING:
    import onnx

OPSET = 18
NETWORK = "network"
Axes = Mapping[str, Mapping[int, str]]
"""Input or output -> axis -> name of the size that may differ from the example's."""


class Flat(nn.Module):
    """A network that takes tensors one by one and returns a tuple of them."""

    def __init__(self, network: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.network = network
        self.example = example
        self.eval()  # the exporters put this module, and with it the network, back in the mode that it was in

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = rebuild(self.example, list(tensors))
        is_lifted = isinstance(self.network, fx.GraphModule) and _holds_operations(self.network)
        return tuple(tensors_in(call(_Interpreted(self.network) if is_lifted else self.network, inputs)))


def traced(model: nn.Module, interface: Interface, axes: Axes) -> onnx.ModelProto:
    """By the older exporter."""
    import onnx

    buffer = io.BytesIO()
    export: Any = torch.onnx.export  # its stubs know of file names only
    with torch.no_grad(), silence(), _translations():
        export(
            Flat(model, interface.example),
            _example_tensors(interface, axes),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(interface.inputs_by_name),
            output_names=list(interface.outputs_by_name),
            dynamic_axes={name: dict(sizes) for name, sizes in axes.items()},
        )
    return onnx.load_from_string(buffer.getvalue())


def traced_plainly(model: nn.Module, interface: Interface, axes: Axes) -> onnx.ModelProto:
    """By the older exporter, with attention as matrix products and softmax."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), _configured(model, {"_attn_implementation": "eager"}):
        return traced(model, interface, axes)


def exported(model: nn.Module, interface: Interface, axes: Axes) -> onnx.ModelProto:
    """By the newer exporter."""
    inputs = interface.inputs_by_name
    sizes = tuple(dict.fromkeys(axes.get(name, {}), torch.export.Dim.AUTO) for name in inputs)
    export: Any = torch.onnx.export
    with torch.no_grad(), silence():
        program = export(
            Flat(_with_symbols(model), interface.example),
            _example_tensors(interface, axes),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(interface.outputs_by_name),
            dynamic_shapes={"tensors": sizes},
            optimize=True,
            verbose=False,
        )
    proto: onnx.ModelProto = program.model_proto
    return proto


def _example_tensors(interface: Interface, axes: Axes) -> tuple[torch.Tensor, ...]:
    """A batch of two where any batch shall do: networks and exporters take sizes of 1 for a special case."""
    inputs = interface.inputs_by_name
    return tuple(t.repeat_interleave(2, 0) if 0 in axes.get(name, {}) else t for name, t in inputs.items())


# -- circumstances -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """Without what an exporter cannot follow: caches of decoders, fused kernels of torch.nn, sorted experts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _configured(model, {"use_cache": False, "_experts_implementation": "batched_mm"}):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _configured(model: nn.Module, settings: Mapping[str, Any]) -> Iterator[None]:
    """Set what the configurations of transformers' networks have of these fields, and put it back."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [
        (config, name, getattr(config, name))
        for config in configs.values()
        for name in settings
        if getattr(config, name, None) is not None
    ]
    for config, name, _ in before:
        setattr(config, name, settings[name])
    try:
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Exporters warn of their own deprecation and of every shape that they trace."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    print_graph, torch._C._jit_onnx_log = (
        torch._C._jit_onnx_log,
        lambda *_: None,
    )  # prints whole graphs from C++
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = print_graph
        logging.disable(level)


# -- what the older exporter does not know ---------------------------------------------------------------------


@contextlib.contextmanager
def _translations() -> Iterator[None]:
    """Operations that it lacks or gets wrong, for the time of an export."""
    operations: dict[str, Callable[..., Any]] = {
        "aten::diff": _diff,
        "aten::cumsum": _cumsum,
        "aten::permute": _permute,
        "aten::col2im": _col2im,
    }
    onnx: Any = torch.onnx  # whose stubs leave out what is deprecated
    for name, function in operations.items():
        onnx.register_custom_op_symbolic(name, function, OPSET)
    try:
        yield
    finally:
        for name in operations:
            onnx.unregister_custom_op_symbolic(name, OPSET)


def _diff(g: Any, x: Any, n: Any, axis: Any, prepend: Any, append: Any) -> Any:
    """Differences of neighbours along an axis: decoders find packed sequences with it."""
    symbolic_helper: Any = torch.onnx.symbolic_helper
    if symbolic_helper._get_const(n, "i", "n") != 1:
        raise NotImplementedError("torch.diff of an order above 1")
    dimension = symbolic_helper._get_const(axis, "i", "dim")
    parts = [part for part in (prepend, x, append) if not symbolic_helper._is_none(part)]
    whole = g.op("Concat", *parts, axis_i=dimension) if len(parts) > 1 else x
    first, second, last, end, along = (
        g.op("Constant", value_t=torch.tensor([number])) for number in (0, 1, -1, 2**62, dimension)
    )
    return g.op("Sub", g.op("Slice", whole, second, end, along), g.op("Slice", whole, first, last, along))


def _cumsum(g: Any, x: Any, axis: Any, dtype: Any) -> Any:
    """Running sums; of booleans, which ONNX does not add up, as whole numbers."""
    onnx: Any = torch.onnx
    given = onnx.symbolic_helper._maybe_get_const(dtype, "i")
    kind = onnx.JitScalarType.from_value(x)
    if isinstance(given, int):
        kind = onnx.JitScalarType(given)
    elif kind == onnx.JitScalarType.BOOL:
        kind = onnx.JitScalarType.INT64
    return g.op("CumSum", g.op("Cast", x, to_i=kind.onnx_type()), axis)


def _permute(g: Any, x: Any, order: Any) -> Any:
    """Axes in another order; negative ones are counted from the end, which ONNX does not do."""
    symbolic_helper: Any = torch.onnx.symbolic_helper
    places = symbolic_helper._get_const(order, "is", "dims")
    return g.op("Transpose", x, perm_i=[place % len(places) for place in places])


def _col2im(g: Any, x: Any, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Patches added up to an image, of a size that may depend on the input."""
    symbolic_helper: Any = torch.onnx.symbolic_helper
    dilations, pads, strides = (symbolic_helper._get_const(n, "is", "n") for n in (dilation, padding, stride))
    return g.op("Col2Im", x, size, kernel, dilations_i=dilations, pads_i=[*pads, *pads], strides_i=strides)


def _holds_operations(graph: fx.GraphModule) -> bool:
    return any(isinstance(node.target, torch._ops.OpOverload) for node in graph.graph.nodes)


class _Interpreted(fx.Interpreter):
    """A graph whose ATen operations are called as their Python methods.

    The older exporter sees the sizes among the arguments of those only; in an ATen operation they are numbers
    of the example.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = [str(node.target) for node in self.graph.find_nodes(op="placeholder")]
        return self.run(*args, *(kwargs[name] for name in names if name in kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(target, torch._ops.OpOverload):
            target = _spelled(target, args, kwargs)
        return target(*args, **kwargs)


def _slices(x: torch.Tensor, axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis % x.dim())), part)


_SPELLED: dict[str, Callable[..., Any]] = {
    "sym_size": torch.Tensor.size,
    "_unsafe_view": torch.Tensor.reshape,
    "alias": lambda x: x,
    "lift_fresh_copy": lambda x: x,
    "slice": lambda x, axis=0, start=None, end=None, step=1: x[_slices(x, axis, slice(start, end, step))],
    "_to_copy": lambda x, dtype=None, **_: x if dtype is None else x.to(dtype),
}


def _spelled(operation: torch._ops.OpOverload, args: Any, kwargs: Any) -> Callable[..., Any]:
    """The Python function of an ATen operation, where a size is among its arguments; else itself."""
    namespace, _, name = operation._schema.name.partition("::")
    if namespace == "aten" and name in _SPELLED:
        return _SPELLED[name]
    if namespace != "aten" or not _takes_size(operation._schema, args, kwargs):
        return operation
    owner = torch.Tensor if operation._schema.arguments[0].name == "self" else torch
    return getattr(owner, name, None) or operation


def _takes_size(schema: Any, args: Any, kwargs: Any) -> bool:
    """Whether there is a tensor in the place of a number: that is how a size is traced."""
    given = [*zip(schema.arguments, args, strict=False)]
    given += [(argument, kwargs[argument.name]) for argument in schema.arguments if argument.name in kwargs]
    return any("Tensor" not in str(argument.type) and tensors_in(value) for argument, value in given)


# -- what the newer exporter does not know ---------------------------------------------------------------------


def _with_symbols(model: nn.Module) -> nn.Module:
    """A copy whose quantizers are spelled in operations of ONNX; the network itself if it has none."""
    kinds = (ActivationQuantizer, QuantizedLayer)
    if not any(isinstance(module, kinds) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLayer) and module.has_codes:
            model.set_submodule(name, _SymbolicLayer(module))
    for name, module in list(model.named_modules()):
        if isinstance(module, ActivationQuantizer):
            model.set_submodule(
                name, _SymbolicQuantizer(module) if float(module.scale) > 0 else nn.Identity()
            )
    return model


class _SymbolicQuantizer(nn.Module):
    """QuantizeLinear and DequantizeLinear."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.register_buffer("scale", quantizer.grid[0].clone())
        self.register_buffer("zero", quantizer.grid[1].to(torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = _operation("QuantizeLinear", (x, self.scale, self.zero), torch.uint8, x)
        return _operation("DequantizeLinear", (codes, self.scale, self.zero), torch.float32, x)


class _SymbolicLayer(nn.Module):
    """A quantized layer whose weight is a DequantizeLinear of its codes, or looked up by them."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = layer
        self.input = layer.input if layer.input is not None else nn.Identity()
        layer.input = None

    def __getattr__(self, name: str) -> Any:
        """What other parts of a network read past the layer, such as the type of its weight."""
        own = {**self._modules, **self._buffers, **self._parameters}
        return own[name] if name in own else getattr(self._modules["layer"], name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        if isinstance(layer, CodebookLayer):
            parts = (layer.centroids, layer.codes)
            weight = _operation(f"{DOMAIN}::LookUp", parts, torch.float32, layer.codes)
            if layer.scale is not None:
                weight = weight * along(layer.scale, layer.axis, weight.dim())
        else:
            is_one = has_one_scale(layer.form)
            parts = (layer.codes, layer.scale[0] if is_one else layer.scale)
            axis = None if is_one else {"axis": layer.axis}
            weight = _operation("DequantizeLinear", parts, torch.float32, layer.codes, axis)
        return FUNCTIONS[layer.kind](self.input(x), weight, layer.bias, **layer.options)


def _operation(
    name: str,
    inputs: tuple[Any, ...],
    dtype: torch.dtype,
    like: torch.Tensor,
    attributes: dict[str, Any] | None = None,
) -> torch.Tensor:
    version = None if "::" in name else OPSET
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=like.shape, version=version)
