"""Networks of `transformers`: from the fields of a configuration, a JSON file, or a local folder with weights.

Nothing is fetched from the hub and no code that lies beside a model is run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import MissingExtra, ModelError, UnresolvedReference
from autoprune.references import nearest, resolve

SEARCHABLE = (bool, int, float, str)


def configured(where: str, path: Path | None, fields: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """What makes the network.

    Args:
        where: `transformers:Class`, an `AutoModelFor...` or a class with a configuration of its own.
        path: a configuration as JSON, or a folder with `config.json` and perhaps weights as safetensors; None
            starts from the defaults of the class.
        fields: of the configuration; they take precedence over `path`.

    Raises:
        MissingExtra: transformers is not installed.
        UnresolvedReference: no such class, file or field; an `Auto` class that is not told the kind of model.
    """
    if find_spec("transformers") is None:
        raise MissingExtra(f"{where} needs the package transformers: pip install transformers")
    made_by = resolve(where)
    if not hasattr(made_by, "from_config") and getattr(made_by, "config_class", None) is None:
        raise UnresolvedReference(f"{where} is no model class of transformers with a configuration")
    return _Configured(where, made_by, path, dict(fields))


class _Configured:
    """Makes networks of one class; its keyword arguments are the fields of the configuration."""

    def __init__(self, where: str, made_by: Any, path: Path | None, fields: dict[str, Any]) -> None:
        self._where, self._class = where, made_by
        self._base = {} if path is None else _read_config(path)
        if "model_type" in fields:
            self._base["model_type"] = fields["model_type"]
        self._folder = path if path is not None and path.is_dir() else None
        # Configurations take any field without a word: what one knows shows before they are given.
        known = self._config({})
        self._base.update(fields)
        unknown = [name for name in fields if name != "model_type" and not hasattr(known, name)]
        if unknown:
            raise UnresolvedReference(
                f"{where}: {type(known).__name__} has no field {unknown[0]!r}{nearest(unknown[0], known.to_dict())}"
            )
        config = self._config({})
        self.__signature__ = _fields_of(config, fields)

    def __call__(self, **fields: Any) -> nn.Module:
        config = self._config(fields)
        if self._folder is not None and not fields and _has_weights(self._folder):
            return self._pretrained(config)
        make = getattr(self._class, "from_config", None) or self._class
        model: nn.Module = make(config)
        return model

    def _pretrained(self, config: Any) -> nn.Module:
        model: nn.Module = self._class.from_pretrained(
            self._folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
        return model

    def _config(self, fields: Mapping[str, Any]) -> Any:
        given = {**self._base, **fields}
        if not hasattr(self._class, "from_config"):
            given.pop("model_type", None)
            return self._class.config_class(**given)
        if "model_type" not in given:
            raise UnresolvedReference(
                f"{self._where}: say which kind of model, by model_type=bert or by config=FOLDER"
            )
        kind = given.pop("model_type")
        transformers = import_module("transformers")
        if kind not in transformers.CONFIG_MAPPING:
            raise UnresolvedReference(
                f"{self._where}: model_type: got {kind!r}, expected a kind of model that transformers knows"
                f"{nearest(kind, transformers.CONFIG_MAPPING)}"
            )
        return transformers.AutoConfig.for_model(kind, **given)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnresolvedReference(f"config: {file} cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UnresolvedReference(
            f"config: {file} holds {type(fields).__name__}, expected a mapping of fields"
        )
    # What only says how the file came to be, or would load code from beside it.
    for name in ("auto_map", "architectures", "transformers_version", "dtype", "torch_dtype"):
        fields.pop(name, None)
    return fields


def _has_weights(folder: Path) -> bool:
    if any(folder.glob("*.safetensors")):
        return True
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise ModelError(
            f"{folder} holds weights as a pickle only ({pickled[0]}), which are not loaded: store them once by "
            "model.save_pretrained(folder), which writes safetensors"
        )
    return False


def _fields_of(config: Any, fields: Mapping[str, Any]) -> inspect.Signature:
    """The plain fields of a configuration as keyword arguments with their values as defaults."""
    named = {name: getattr(config, name) for name in ("num_labels", *fields) if hasattr(config, name)}
    values = {**config.to_dict(), **named}
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in sorted(values.items())
            if isinstance(value, SEARCHABLE) and name.isidentifier() and name != "model_type"
        ]
    )
