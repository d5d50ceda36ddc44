"""From a string to an object: `file.py:Name`, `package.module:Name`, or a short built-in name.

Where an object has to be made, its arguments may follow as in a web address: `package.module:make?width=64&depth=3`.
The only way in which anything is looked up by name. There is no registry: a kind of thing that has built-in names
keeps one visible table `name -> reference` and passes it here.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from autoprune.errors import UnresolvedReference


def nearest(word: str, words: Iterable[str]) -> str:
    """`"; did you mean 'depth'?"` for the word most like `word`, or an empty string."""
    found = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def is_argument(name: object) -> bool:
    """Whether this can be the name of an argument, or the label of a choice (`cell/0_1`)."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w./-]+", name))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits any of these patterns (`layer3.*`), letter case included."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def search_spaces_folder() -> Path:
    """The folder of ready spaces and tasks: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    beside = package.parent / "search_spaces"
    return beside if beside.is_dir() else package / "search_spaces"


def resolve(reference: str, *, folder: Path | None = None, builtins: Mapping[str, str] | None = None) -> Any:
    """The object that `reference` names.

    Args:
        reference: `file.py:Name` (relative to `folder`), `package.module:Name`, or a key of `builtins`.
        folder: where a relative file is looked for first; then the ready spaces, then the working directory.
        builtins: short name -> reference.

    Raises:
        UnresolvedReference: the name, file, module or attribute does not exist (with the nearest name), or the
            file raises when it is loaded.
    """
    known = dict(builtins or {})
    reference = known.get(reference, reference)
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        listed = ", ".join(sorted(known)) or "none"
        raise UnresolvedReference(
            f"{reference!r} is not a known name{nearest(reference, known)} "
            f"(built in: {listed}; otherwise write 'file.py:Name' or 'package.module:Name')"
        )
    module = _load_file(_find_file(where, folder)) if where.endswith(".py") else _import(where)
    found: Any = module
    for part in name.split("."):
        found = _attribute(found, part, f"{where} has no {name!r}")
    return found


def _attribute(found: Any, part: str, missing: str) -> Any:
    try:
        return getattr(found, part)
    except AttributeError:
        public = [n for n in dir(found) if not n.startswith("_")]
        raise UnresolvedReference(f"{missing}{nearest(part, public)}") from None
    except Exception as error:  # a package that imports its parts when they are first asked for
        raise UnresolvedReference(f"{missing}: {type(error).__name__}: {error}") from error


def find_file(reference: str, folder: Path | None = None) -> Path | None:
    """The file that a `file.py:Name` reference points at, None for any other reference.

    Raises:
        UnresolvedReference: it is a file reference and no such file exists.
    """
    where, _, _ = reference.rpartition(":")
    return _find_file(where, folder) if where.endswith(".py") else None


def split_query(reference: str) -> tuple[str, dict[str, Any]]:
    """`('timm:create_model', {'num_classes': 10})` from `timm:create_model?num_classes=10`.

    Values are read as YAML reads them (`10`, `true`, `[1, 2]`, text); `%26` stands for an `&` in one.

    Raises:
        UnresolvedReference: a part is not `name=value`.
    """
    import yaml

    where, _, query = reference.partition("?")
    arguments: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        if not equals or not is_argument(name):
            raise UnresolvedReference(
                f"{reference!r}: got {part!r} after the '?', expected name=value&name=value"
            )
        try:
            arguments[name] = yaml.safe_load(unquote(value))
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise UnresolvedReference(
                f"{reference!r}: the value of {name} cannot be read: {reason}"
            ) from None
    return where, arguments


def wrong_arguments(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Why `factory` cannot be called with these keyword arguments; empty when it can, as far as it tells."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C, and without a signature
        return ""
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [name for name in arguments if name not in signature.parameters and not takes_any]
    if unknown:
        known = ", ".join(signature.parameters) or "none"
        return f"got an unknown argument {unknown[0]!r}, expected {known}{nearest(unknown[0], signature.parameters)}"
    try:
        signature.bind(**arguments)
    except TypeError as error:
        return str(error)
    return ""


def _find_file(where: str, folder: Path | None) -> Path:
    bases = dict.fromkeys(base for base in (folder, search_spaces_folder(), Path.cwd()) if base is not None)
    tried = [base / where for base in bases]
    for path in [Path(where)] if Path(where).is_absolute() else tried:
        if path.is_file():
            return path.resolve()
    siblings = [p.name for path in tried if path.parent.is_dir() for p in path.parent.glob("*.py")]
    places = ", ".join(str(path.parent) for path in tried)
    raise UnresolvedReference(f"there is no file {where!r}{nearest(where, siblings)} (looked in {places})")


def _load_file(path: Path) -> ModuleType:
    name = f"autoprune_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnresolvedReference(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UnresolvedReference(
            f"{path} fails when it is loaded: {type(error).__name__}: {error}"
        ) from error
    return module


def _import(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except Exception as error:
        raise UnresolvedReference(f"cannot import {where!r}: {type(error).__name__}: {error}") from error
