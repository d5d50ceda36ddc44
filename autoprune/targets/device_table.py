"""The target `table`: a device that is not here, known by a table of layers and their times.

A CSV file of one row for each layer that was timed on the device:

    kind,inputs,outputs,kernel,stride,groups,size,weight_bits,activation_bits,milliseconds
    Conv2d,16,32,3,2,1,16,32,32,0.41

`size` is the height of the output of a convolution and the number of tokens of a linear layer (1 without any);
`groups`, `stride` and the bits may be left out (1, 1, 32), and `energy_uj` may be there too. A layer that stands in
the table takes what stands there. Any other takes what a fitted sum says: so much for a call, for each
multiply-accumulate, and for each byte of weights, inputs and outputs, for each kind of arithmetic its own, none below
zero, so that a larger layer never is the faster one. How far that sum is off on rows left out is the spread of every
latency, and part of its source.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import TargetError
from autoprune.references import nearest
from autoprune.space import Value
from autoprune.targets.modelled import Modelled, host
from autoprune.targets.target import Measurement, Runnable, unsupported_bits

if TYPE_CHECKING:
    from torch import nn

    from autoprune.deployed.shapes import LayerShape
    from autoprune.tensors import Inputs

Floats = NDArray[np.float64]
NEEDED = ("kind", "inputs", "outputs", "kernel", "size", "milliseconds")
OPTIONAL = {"stride": 1, "groups": 1, "weight_bits": 32, "activation_bits": 32}
FOLDS, LEAST_ROWS = 5, 3
MOST_ROWS = 100_000
Key = tuple[Any, ...]


class Row(NamedTuple):
    """A layer that was timed."""

    kind: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    groups: int
    size: int
    weight_bits: int
    activation_bits: int
    milliseconds: float
    energy_uj: float | None

    @property
    def key(self) -> Key:
        """Everything but the figures."""
        return self[:9]

    @property
    def arithmetic(self) -> str:
        """What it is fitted together with."""
        depthwise = "depthwise " if self.groups > 1 else ""
        return f"{depthwise}{self.kind} {self.weight_bits}/{self.activation_bits}"


class Table:
    """A target known by a table.

    Args:
        table: the CSV file, relative to the spec.
        folder: that of the spec.
        runs: computes accuracies here: `onnxruntime`, `openvino`, `torch`.
        channel_multiple: prune to multiples of so many channels only.

    Raises:
        TargetError: the file cannot be read, with every row that is wrong.
    """

    def __init__(
        self,
        table: str,
        folder: Path | None = None,
        runs: str = "onnxruntime",
        channel_multiple: int = 1,
    ) -> None:
        path = (folder or Path.cwd()) / table
        rows = read_rows(path)
        self.name, self.channel_multiple = Path(table).name, channel_multiple
        self._host = host(runs)
        self._key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._predict = {"latency_ms": Predictor(rows, [row.milliseconds for row in rows])}
        energies = [row.energy_uj for row in rows if row.energy_uj is not None]
        if len(energies) == len(rows):
            self._predict["energy_uj"] = Predictor(rows, energies)
        self.weight_bits = tuple(sorted({row.weight_bits for row in rows}))
        self.activation_bits = tuple(sorted({row.activation_bits for row in rows}))
        self.kinds = sorted({row.kind for row in rows})

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width is not in the table, None when all are."""
        return unsupported_bits(f"the table {self.name}", choices, self.weight_bits, self.activation_bits)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate in the runtime that computes its accuracy, with what it takes on the device."""
        return Modelled(self._host, model, example, self.price(model, example))

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:  # noqa: ARG002
        """What the table says of the candidate."""
        sources = {name: f"modelled: {self.name}, {one.stated}" for name, one in self._predict.items()}
        return Modelled.of(runnable).measurement(sources, self._predict["latency_ms"].error)

    def price(self, model: nn.Module, example: Inputs) -> dict[str, float]:
        """The sum over all layers."""
        from autoprune.deployed.shapes import layer_shapes

        rows = [as_row(shape) for shape in layer_shapes(model, example)]
        return {name: float(sum(predict(row) for row in rows)) for name, predict in self._predict.items()}

    def problems(self, model: nn.Module, example: Inputs) -> list[str]:
        """Layers of a kind that the table does not know."""
        from autoprune.deployed.shapes import layer_shapes

        return [
            f"layer {shape.name}: {self.name} has no row of kind {shape.kind}, only of {', '.join(self.kinds)}"
            for shape in layer_shapes(model, example)
            if shape.kind not in self.kinds
        ]

    def machine_key(self) -> str:
        """The table, in a few letters."""
        return self._key


class Predictor:
    """What a layer takes, by the table or by the sum that is fitted to it.

    Args:
        rows: that were timed.
        truth: the figure of each.

    Attributes:
        error: median relative error of the sum on rows left out of the fit.
    """

    def __init__(self, rows: Sequence[Row], truth: Sequence[float]) -> None:
        self._known: dict[Key, float] = {}
        for row, value in zip(rows, truth, strict=True):
            self._known[row.key] = min(value, self._known.get(row.key, math.inf))
        groups: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(row.arithmetic, []).append(index)
        numbers = np.array(truth, dtype=float)
        features = np.array([features_of(row) for row in rows])
        self._fits = {name: fitted(features[at], numbers[at]) for name, at in groups.items()}
        self._all = fitted(features, numbers)
        errors = np.concatenate([left_out(features[at], numbers[at]) for at in groups.values()])
        self.error = float(np.median(errors)) if len(errors) else 1.0
        worst = f", a tenth above {100 * np.quantile(errors, 0.9):.1f} %" if len(errors) else ""
        self.stated = f"{len(rows)} rows, median error {100 * self.error:.1f} % on rows left out{worst}"

    def __call__(self, row: Row) -> float:
        if (known := self._known.get(row.key)) is not None:
            return known
        return float(features_of(row) @ self._fits.get(row.arithmetic, self._all))


def features_of(row: Row) -> Floats:
    """What a layer does: a call, multiply-accumulates, and bytes of weights, inputs and outputs."""
    convolution = row.kind.startswith("Conv")
    axes = 1 if row.kind.endswith("1d") else 3 if row.kind.endswith("3d") else 2
    places, window = (row.size**axes, row.kernel**axes) if convolution else (row.size, 1)
    given = places * row.stride**axes if convolution else places
    weights = row.inputs // row.groups * row.outputs * window
    return np.array(
        [
            1.0,
            weights * places,
            weights * row.weight_bits / 8,
            row.inputs * given * row.activation_bits / 8,
            row.outputs * places * row.activation_bits / 8,
        ]
    )


def fitted(features: Floats, truth: Floats) -> Floats:
    """Weights of 0 or more with which the features give the truth, by relative error."""
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(features).max(axis=0), 1e-12)
    weights, _ = nnls(features / scale / truth[:, None], np.ones(len(truth)))
    return np.asarray(weights / scale)


def left_out(features: Floats, truth: Floats) -> Floats:
    """Relative errors of a fit on rows that it has not seen; none of too few rows."""
    if len(truth) < LEAST_ROWS:
        return np.zeros(0)
    folds = np.arange(len(truth)) % min(FOLDS, len(truth))
    errors = np.zeros(len(truth))
    for fold in np.unique(folds):
        out = folds == fold
        predicted = features[out] @ fitted(features[~out], truth[~out])
        errors[out] = np.abs(predicted / truth[out] - 1)
    return errors


def as_row(shape: LayerShape) -> Row:
    """A layer as the table would have it, without figures."""
    size = (
        max(shape.gives[0], 1) if shape.gives and shape.kind != "Linear" else max(1, math.prod(shape.gives))
    )
    return Row(
        shape.kind,
        shape.inputs,
        shape.outputs,
        shape.kernel[0] if shape.kernel else 1,
        shape.stride[0] if shape.stride else 1,
        shape.groups,
        size,
        shape.weight_bits,
        shape.activation_bits,
        math.nan,
        None,
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of a table.

    Raises:
        TargetError: no such file, columns that are missing, or rows that are wrong: all of them, a line each.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names, lines = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        raise TargetError(f"target.table: {path} cannot be read: {error}") from None
    known = (*NEEDED, *OPTIONAL, "energy_uj")
    problems = [f"a column {name} is missing{nearest(name, names)}" for name in NEEDED if name not in names]
    problems += [
        f"got an unknown column {name!r}{nearest(name, known)}" for name in names if name not in known
    ]
    if not problems and not 1 <= len(lines) <= MOST_ROWS:
        problems = [f"got {len(lines)} rows, expected 1 to {MOST_ROWS}"]
    rows = []
    for number, line in enumerate([] if problems else lines, start=2):
        try:
            rows.append(_row(line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        shown = [*problems[:20], *([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])]
        raise TargetError("\n".join(f"target.table: {path.name}: {problem}" for problem in shown))
    return rows


def _row(line: dict[str, Any]) -> Row:
    kind = (line["kind"] or "").strip()
    numbers = {name: _whole(name, line[name]) for name in ("inputs", "outputs", "kernel", "size")}
    numbers |= {name: _whole(name, line.get(name) or default) for name, default in OPTIONAL.items()}
    energy = line.get("energy_uj") or None
    if not kind:
        raise ValueError("kind: got nothing, expected Conv2d, Linear, ...")
    return Row(
        kind=kind,
        milliseconds=_positive("milliseconds", line["milliseconds"]),
        energy_uj=None if energy is None else _positive("energy_uj", energy),
        **numbers,
    )


def _whole(name: str, text: Any) -> int:
    value = _positive(name, text)
    if value != int(value):
        raise ValueError(f"{name}: got {text!r}, expected a whole number")
    return int(value)


def _positive(name: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < 1e15:
        raise ValueError(f"{name}: got {text!r}, expected a number above 0")
    return value
