"""Where networks come from: a file, an installed package, a configuration, an exported program, stored weights.

    mine.py:Net                                                       a class or function in a file
    mine.py:Net?width=32&weights=net.safetensors                      with arguments, and filled with a state dict
    torchvision.models:resnet18?num_classes=10                        a function of an installed package
    transformers:BertForSequenceClassification?hidden_size=64         the fields of its configuration
    transformers:AutoModelForSequenceClassification?config=FOLDER     a local folder, or a JSON file, with its weights
    nni:DARTS?width=[8, 16]                                           a model space of NNI (see `model_space`)
    out/                                                              an artifact of ours, as floats again
    model.pt2?trust=true                                              a program saved by torch.export

Nothing is downloaded here, and nothing is unpickled unless the user writes `trust=true` behind an exported program.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from autoprune.deployed.unquantize import unquantize
from autoprune.errors import AutopruneError, ModelError, UnresolvedReference, raised
from autoprune.references import nearest, resolve, split_query, wrong_arguments
from autoprune.stored import load
from autoprune.task.configured import configured
from autoprune.task.model_space import PREFIX, SampledSpace, hub_space, is_model_space
from autoprune.task.weights import fill, is_weights_file, read_weights

ModelFactory = Callable[..., nn.Module]


def load_model(reference: str, folder: Path | None = None, **arguments: Any) -> nn.Module:
    """The network that `reference` names, made with these arguments besides those behind its `?`.

    Raises:
        UnresolvedReference: it leads nowhere, or takes no such argument.
        ModelError: making it raises, gives something else than a network, or its weights do not fit.
        ArtifactError: the folder that it names is no artifact, or a damaged one.
        MissingExtra: it needs a package that is not installed.
    """
    return model_factory(reference, folder)(**arguments)


def model_factory(reference: str, folder: Path | None = None) -> ModelFactory:
    """What makes the network that `reference` names; `inspect.signature` of it says what can be searched.

    Args:
        reference: one of the forms at the top of this module. Arguments behind the `?` are the baseline's.
        folder: where relative files are looked for first; then the working directory.

    Raises:
        UnresolvedReference, MissingExtra: as for `load_model`.
        ArtifactError: it names a folder that is no artifact, or a damaged one.
    """
    where, arguments = split_query(reference)
    if is_folder(where, folder):
        return _artifact(local_path(where, folder), arguments, folder)
    if where.endswith(".pt2"):
        return _program(local_path(where, folder), arguments)
    weights = None
    if is_weights_file(arguments.get("weights")):
        weights = read_weights(local_path(arguments.pop("weights"), folder))
    if where.startswith("transformers:"):
        config = arguments.pop("config", None)
        path = None if config is None else local_path(str(config), folder, hub=True)
        return _Factory(where, configured(where, path, arguments), {}, weights)
    found = hub_space(where) if where.startswith(PREFIX) else resolve(where, folder=folder)
    if is_model_space(found):
        return _Factory(where, SampledSpace(where, found, arguments), {}, weights)
    return _Factory(where, _plain(where, found), arguments, weights)


def local_path(given: str, folder: Path | None, *, hub: bool = False) -> Path:
    """The file or folder of that name, relative to `folder`, else to the working directory.

    Raises:
        UnresolvedReference: there is none; where it could be a name on the Hugging Face hub, with the command.
    """
    bases = _bases(folder)
    for path in (base / Path(given).expanduser() for base in bases):
        if path.exists():
            return path.resolve()
    places = " and ".join(str(base) for base in dict.fromkeys(bases))
    advice = (
        f"; autoprune downloads no models: run 'hf download {given} --local-dir {Path(given).name}' first, "
        f"and write config={Path(given).name}"
        if hub
        else ""
    )
    raise UnresolvedReference(f"there is no file or folder {given!r} (looked in {places}){advice}")


def _bases(folder: Path | None) -> list[Path]:
    return [base for base in (folder, Path.cwd()) if base is not None]


def is_folder(where: str, folder: Path | None) -> bool:
    """Whether a reference can only be a folder: it ends as one, or there is one of that name."""
    names_one = where.endswith("/") or any(
        (base / Path(where).expanduser()).is_dir() for base in _bases(folder)
    )
    return bool(where.strip()) and names_one


class _Factory:
    """Calls `make`, checks that a network comes out, and fills the baseline with stored weights.

    Other architectures than the baseline stay as they are made: candidates inherit from the reference, which is the
    baseline, as far as shapes agree.
    """

    def __init__(
        self,
        where: str,
        make: ModelFactory,
        arguments: Mapping[str, Any],
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._where, self.make, self._arguments, self._weights = where, make, dict(arguments), weights
        self.__signature__ = _with_defaults(where, make, arguments)

    def __call__(self, **arguments: Any) -> nn.Module:
        if problem := wrong_arguments(self, arguments):
            raise UnresolvedReference(f"{self._where}: {problem}")
        try:
            model = self.make(**{**self._arguments, **arguments})
        except AutopruneError:
            raise
        except Exception as error:
            raise ModelError(f"{self._where} {raised(error)}") from error
        if not isinstance(model, nn.Module):
            kind = type(model)
            hint = (
                "; set KERAS_BACKEND=torch before Keras is imported"
                if kind.__module__.startswith("keras")
                else ""
            )
            raise ModelError(f"{self._where} makes {kind.__name__}, expected a torch.nn.Module{hint}")
        if self._weights is not None and not arguments:
            fill(model, self._weights, self._where)
        return model


def _plain(where: str, found: Any) -> ModelFactory:
    """A class or function as it is, a network as what makes copies of it."""
    if isinstance(found, nn.Module):
        return lambda: copy.deepcopy(found)
    if not callable(found):
        raise UnresolvedReference(
            f"{where} is {type(found).__name__}, expected a network, or a class or function that makes one"
        )
    factory: ModelFactory = found
    return factory


def _with_defaults(where: str, make: ModelFactory, defaults: Mapping[str, Any]) -> inspect.Signature:
    """The signature of `make` with these defaults; what gets one can only be given by name."""
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # written in C, and without a signature
        signature = inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)])
    parameters = dict(signature.parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in defaults.items():
        if not name.isidentifier() or (name not in parameters and not takes_any):
            known = ", ".join(parameters) or "none"
            raise UnresolvedReference(
                f"{where}: got an unknown argument {name!r}, expected {known}{nearest(name, parameters)}"
            )
        parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
    return signature.replace(parameters=sorted(parameters.values(), key=lambda parameter: parameter.kind))


def _artifact(path: Path, arguments: dict[str, Any], folder: Path | None) -> ModelFactory:
    """Copies of the network in an artifact, with the widths that it has there, in layers that train.

    Args:
        path: the artifact.
        arguments: `model`, a reference to the uncompressed network, for one that is not stored as a graph.
        folder: where files that it names are looked for.
    """
    unknown = [name for name in arguments if name != "model"]
    if unknown:
        raise UnresolvedReference(f"{path.name}: got an unknown argument {unknown[0]!r}, expected model")
    make = model_factory(str(arguments["model"]), folder) if arguments else None
    network = unquantize(load(path, make, whole=True))
    return lambda: copy.deepcopy(network)


def _program(path: Path, arguments: dict[str, Any]) -> ModelFactory:
    """Copies of the network in a `torch.export` archive.

    Its graph is fixed: BatchNorm and dropout behave as at the time of the export, in training too.
    """
    unknown = [name for name in arguments if name != "trust"]
    if unknown:
        raise UnresolvedReference(f"{path.name}: got an unknown argument {unknown[0]!r}, expected trust")
    if arguments.get("trust") is not True:
        raise UnresolvedReference(
            f"{path.name}: torch.export.load may run code from the file (it unpickles, and evaluates expressions); "
            f"if you know where the file is from, write '{path.name}?trust=true'"
        )
    try:
        exported = torch.export.load(path).module()
    except Exception as error:
        raise ModelError(f"{path} is not a program saved by torch.export.save: {error}") from error
    network = _plain_graph(exported)
    return lambda: copy.deepcopy(network)


def _plain_graph(exported: Any) -> fx.GraphModule:
    """An exported program as an ordinary network: `train()` and `eval()` work, and no guards are in the way."""
    for node in list(exported.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            exported.graph.erase_node(node)
    graph = fx.GraphModule(exported, exported.graph)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph
