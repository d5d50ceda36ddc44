"""NNI's model spaces as models: the user's own, and those of its hub by name.

    nni:DARTS?width=[8, 16]&num_cells=[3, 6]          one of the hub, with arguments of its class
    nni:NasBench201?cell/0_1=skip_connect             and a label at another value in the baseline
    mine.py:Space                                     a subclass of `nni.nas.nn.pytorch.ModelSpace`

Each mutable becomes one choice under its own label, `architecture.<label>`; one that picks any number of values becomes
a choice of true or false for each of them, as `<label>/<number>`. A point becomes a network by making the space anew
with its sample fixed, which is how NNI itself retrains one: weights are fresh, and drawn from torch's seed.

The baseline is NNI's default sample. Of most spaces in the hub that is a network that nobody would train (all edges
`none`, every stage one block deep), so `BASELINES` says which one is meant.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.errors import AutopruneError, ModelError, NoNetwork, UnresolvedReference, raised
from autoprune.nni_imports import nni_module
from autoprune.references import matches, nearest
from autoprune.space import Options, Value

PREFIX = "nni:"
LAST = ...  # the last value of a mutable, whatever it is
_DEEP_CELLS = {"width": LAST, "depth": LAST, "*/op_*": "sep_conv_3x3", "*/input_*_1": 1}
_CHAIN = {f"cell/input{vertex}/{vertex - 1}": True for vertex in range(1, 7)}

BASELINES: dict[str, Mapping[str, Any]] = {
    "AmoebaNet": _DEEP_CELLS,
    "AutoFormer": {"*": LAST},
    "DARTS": _DEEP_CELLS,
    "ENAS": _DEEP_CELLS,
    "MobileNetV3Space": {"*_depth": LAST, "*_width_mult": 1.0, "*_exp": 4.0},
    "NASNet": _DEEP_CELLS,
    "NasBench101": {
        "cell/num_nodes": LAST,
        "cell/op*": "conv3x3-bn-relu",
        **_CHAIN,
        "cell/input*": False,
    },
    "NasBench201": {"cell/*": "conv_3x3"},
    "PNAS": _DEEP_CELLS,
    "ProxylessNAS": {"*_depth": LAST},
    "ShuffleNetSpace": {},
}
"""The spaces of the hub by name, and what their baseline has in place of NNI's default, by pattern of the label."""

MOST_COMBINATIONS = 256  # of values that one mutable picks together
LEVELS = 9  # of a number
TRIES = 1000  # random samples, where the default one breaks the space's own constraints


def hub_space(reference: str) -> type:
    """The class in NNI's hub that `nni:Name` names.

    Raises:
        UnresolvedReference: there is none of that name.
        MissingExtra: NNI is not installed.
    """
    name = reference.removeprefix(PREFIX)
    if name not in BASELINES:
        raise UnresolvedReference(
            f"{reference}: NNI's hub has no space {name!r}{nearest(name, BASELINES)} (it has {', '.join(BASELINES)}; "
            "a space of your own is file.py:Name)"
        )
    found: type = getattr(nni_module("nni.nas.hub.pytorch", reference), name)
    return found


def is_model_space(found: Any) -> bool:
    """Whether this is a model space of NNI, or a class of them; whoever has one has imported NNI."""
    if "nni.nas.nn.pytorch" not in sys.modules:
        return False
    base = nni_module("nni.nas.nn.pytorch", "a model space").ModelSpace
    return issubclass(found, base) if isinstance(found, type) else isinstance(found, base)


class SampledSpace:
    """Makes the networks of one model space; keyword arguments are its choices, by label.

    Args:
        where: what the user wrote.
        space: the class, or one that was made of it (its arguments are kept, its weights are not).
        arguments: of the class, and labels with the values that the baseline has.

    Attributes:
        options: label -> values; the neutral one is the baseline's.

    Raises:
        UnresolvedReference: an argument that is neither one of the class nor a label, or a value that a label lacks.
        ModelError: the space cannot be made, two mutables share a label, or one is of a kind that cannot be searched.
    """

    def __init__(self, where: str, space: Any, arguments: Mapping[str, Any] | None = None) -> None:
        given = dict(arguments or {})
        self._where = where
        self._class: type = space if isinstance(space, type) else type(space)
        own = dict(inspect.signature(getattr(self._class, "_init_wrapped", self._class)).parameters)
        made_with = {} if isinstance(space, type) else dict(space.trace_kwargs)
        self._arguments = {**made_with, **{name: given.pop(name) for name in list(given) if name in own}}
        leaves = self._leaves()
        self._parts = [part for label, leaf in leaves.items() if (part := _part(where, label, leaf))]
        self._constraints = [leaf for leaf in leaves.values() if _is_constraint(leaf)]
        self.options = self._options()
        self._set_baseline(given, own)

    def __call__(self, **chosen: Any) -> nn.Module:
        self._check(chosen, self.options)
        sample = self._sample({**self._baseline(), **chosen})
        context = nni_module("nni.nas.space", self._where).model_context
        try:
            with context(sample):
                model: nn.Module = self._class(**self._arguments)
        except Exception as error:
            raise ModelError(f"{self._where} {raised(error)}") from error
        return model

    def sample(self, chosen: Mapping[str, Value]) -> dict[str, Any]:
        """A point in NNI's form, label -> value, as `nni.nas.space.model_context` takes it.

        Raises:
            NoNetwork: the space's own constraints exclude it.
        """
        found = self._sample({**self._baseline(), **chosen})
        return {part.label: found[part.label] for part in self._parts}

    def _leaves(self) -> dict[str, Any]:
        """The mutables and constraints of the space, by label."""
        try:
            with torch.random.fork_rng(devices=[]):
                space = self._class(**self._arguments)
        except AutopruneError:
            raise
        except Exception as error:
            raise ModelError(f"{self._where} {raised(error)}") from error
        mutable = nni_module("nni.mutable", self._where).LabeledMutable
        leaves: dict[str, Any] = {}
        problems = []
        for leaf in space.leaf_mutables(lambda one: isinstance(one, mutable)):
            if not leaf.equals(leaves.setdefault(leaf.label, leaf)):
                problems.append(
                    f"the label {leaf.label!r} stands for {leaves[leaf.label]!r} and for {leaf!r}"
                )
        if problems:
            raise ModelError(
                f"{self._where}: {'; '.join(problems)}: give each its own label, or both the same values"
            )
        return leaves

    def _options(self) -> dict[str, Options]:
        found: dict[str, Options] = {}
        for part in self._parts:
            for name, options in part.options():
                if name in found:
                    raise ModelError(
                        f"{self._where}: two mutables make a choice {name!r}; give each its own label"
                    )
                found[name] = options
        return found

    def _set_baseline(self, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Make neutral what the user names, else what is known of the hub, else NNI's default."""
        self._check(given, {**self.options, **own})
        patterns = BASELINES.get(self._class.__name__, {}) if _is_of_hub(self._class) else {}
        for name, options in self.options.items():
            wanted = next((value for pattern, value in patterns.items() if matches(name, [pattern])), None)
            wanted = options.values[-1] if wanted is LAST else wanted
            neutral = given.get(name, wanted if wanted in options else options.neutral)
            self.options[name] = Options(options.values, neutral)
        try:
            self._sample(self._baseline())
        except NoNetwork as error:
            if given:
                raise UnresolvedReference(f"{self._where}: the baseline is no network: {error}") from None
            self._draw_baseline(str(error))

    def _draw_baseline(self, reason: str) -> None:
        """The first valid one of some random samples, always the same ones."""
        for seed in range(TRIES):
            generator = np.random.default_rng(seed)
            drawn = {
                name: Options(o.values, o.values[int(generator.integers(len(o.values)))])
                for name, o in self.options.items()
            }
            try:
                self._sample({name: options.neutral for name, options in drawn.items()})
            except NoNetwork:
                continue
            self.options = drawn
            return
        raise ModelError(f"{self._where}: none of {TRIES} random samples is a network: {reason}")

    def _baseline(self) -> dict[str, Value]:
        return {name: options.neutral for name, options in self.options.items()}

    def _check(self, chosen: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        for name, value in chosen.items():
            if name not in known:
                listed = ", ".join(known) or "none"
                raise UnresolvedReference(
                    f"{self._where}: got an unknown argument {name!r}, expected {listed:.300}{nearest(name, known)}"
                )
            if value not in known[name]:
                raise UnresolvedReference(
                    f"{self._where}: {name}: got {value!r:.80}, expected one of "
                    f"{', '.join(map(str, known[name].values))}{nearest(str(value), map(str, known[name].values))}"
                )

    def _sample(self, chosen: Mapping[str, Value]) -> dict[str, Any]:
        """The sample in NNI's form.

        Raises:
            NoNetwork: the space's own constraints exclude it.
        """
        sample = {part.label: part.sample(chosen) for part in self._parts}
        for constraint in self._constraints:
            if problem := constraint.check_contains(sample):
                raise NoNetwork(f"{self._where}: these choices exclude each other: {problem}")
        return sample


def space_of(make: Any) -> SampledSpace | None:
    """The model space behind what makes a task's networks; None for anything else."""
    while not isinstance(make, SampledSpace):
        if not hasattr(make, "make"):
            return None
        make = make.make
    return make


class _OneOf:
    """A mutable that has one of a few values; those that are no numbers or text go by what they look like."""

    def __init__(self, label: str, values: Sequence[Any], default: Any) -> None:
        self.label = label
        self._values = {_plain(value): value for value in values}
        self._default = _plain(default)

    def options(self) -> Iterator[tuple[str, Options]]:
        """The choice that it is."""
        yield self.label, Options(tuple(self._values), self._default)

    def sample(self, chosen: Mapping[str, Value]) -> Any:
        """The value that NNI is given."""
        return self._values[chosen[self.label]]


class _Together(_OneOf):
    """A mutable that picks so many values together: one choice among all combinations, or among the values."""

    def __init__(self, label: str, values: Sequence[Any], count: int, default: Sequence[Any]) -> None:
        picked = combinations(values, count)
        named = {_plain(p[0]) if count == 1 else " ".join(map(str, p)): list(p) for p in picked}
        self.label, self._values = label, named
        self._default = next(name for name, value in named.items() if value == list(default))


class _AnyOf:
    """A mutable that picks any number of values: true or false for each."""

    def __init__(self, label: str, values: Sequence[Any], default: Sequence[Any]) -> None:
        self.label, self._values, self._default = label, values, default

    def options(self) -> Iterator[tuple[str, Options]]:
        """A choice for each value."""
        for number, value in enumerate(self._values):
            yield f"{self.label}/{number}", Options((False, True), value in self._default)

    def sample(self, chosen: Mapping[str, Value]) -> list[Any]:
        """The values that NNI is given."""
        return [value for number, value in enumerate(self._values) if chosen[f"{self.label}/{number}"]]


def _part(where: str, label: str, leaf: Any) -> _OneOf | _AnyOf | None:
    """How a mutable is searched; None for what only says something about others."""
    mutable = nni_module("nni.mutable", where)
    if _is_constraint(leaf):
        return None
    if isinstance(leaf, mutable.Categorical):
        return _OneOf(label, leaf.values, leaf.default({}))
    if isinstance(leaf, mutable.CategoricalMultiple):
        count = leaf.n_chosen
        if count is None:
            return _AnyOf(label, leaf.values, leaf.default({}))
        if math.comb(len(leaf.values), count) <= MOST_COMBINATIONS:
            return _Together(label, leaf.values, count, leaf.default({}))
        raise ModelError(
            f"{where}: {label} picks {count} of {len(leaf.values)} values, which is more than {MOST_COMBINATIONS} "
            "combinations: offer fewer values, or leave n_chosen out to decide about each on its own"
        )
    if isinstance(leaf, mutable.Numerical):
        return _OneOf(label, _levels(leaf), leaf.default({}))
    raise ModelError(
        f"{where}: {label} is a {type(leaf).__name__}, which cannot be searched: use nni.choice, LayerChoice, "
        "InputChoice, Repeat or a Numerical"
    )


def _is_constraint(leaf: Any) -> bool:
    annotation: type = nni_module("nni.mutable", "a model space").MutableAnnotation
    return isinstance(leaf, annotation)


def _levels(leaf: Any) -> list[float]:
    """Quantiles of a number's own distribution, its ends and its default among them."""
    ends = [leaf.distribution.ppf(share) for share in (0.0, 1.0)]
    first = 0.0 if np.isfinite(ends).all() else 0.02
    shares = np.linspace(first, 1.0 - first, LEVELS)
    values = [float(leaf.qclip(float(leaf.distribution.ppf(share)))) for share in shares]
    return sorted({*values, float(leaf.default({}))})


def _plain(value: Any) -> Value:
    """The value as a choice can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else repr(value)


def _is_of_hub(space: type) -> bool:
    return space.__module__.startswith("nni.nas.hub.")
