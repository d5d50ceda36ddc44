"""A spec from wherever it is: a file, a ready spec by its short name, or a mapping in Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import SpecError
from autoprune.references import nearest, search_spaces_folder
from autoprune.spec.document import read_yaml
from autoprune.spec.fields import shown
from autoprune.spec.spec import NAME, Spec

SHORT_OVERRIDES = {
    "trials": ("budget", "trials"),
    "minutes": ("budget", "minutes"),
    "device_seconds": ("budget", "device_seconds"),
    "device_hours": ("budget", "device_hours"),
    "money": ("budget", "money"),
    "sampler": ("search", "sampler"),
    "rungs": ("search", "rungs"),
    "workers": ("cluster", "workers"),
    "address": ("cluster", "address"),
}
_MERGED = ("train", "budget", "search", "cluster")


def load_spec(source: str | Path | Mapping[str, Any] | Spec, **overrides: Any) -> Spec:
    """The spec that `source` describes, validated.

    Args:
        source: path of a YAML file, whose files are then relative to its folder; the name of a ready spec
            (`digits`); a mapping, or a spec, whose files are relative to the working directory or `folder`.
        overrides: a field of the spec (`seed=1`, `budget={"trials": 5}`), or one of `SHORT_OVERRIDES`
            (`trials=5`). The sections train, budget, search and cluster are changed field by field, anything
            else is replaced. None stands for "not given".

    Raises:
        SpecError: with all problems, one line each.
    """
    data, folder = _read(source)
    if isinstance(data, Mapping):
        data = _overridden(data, overrides)
    return Spec.parse(data, folder)


def _read(source: Any) -> tuple[Any, Path]:
    """Plain data and the folder that files in it are relative to."""
    if isinstance(source, Spec):
        return source.to_json(), source.folder
    if not isinstance(source, str | Path):
        return source, Path.cwd()
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise SpecError([f"spec: {path} cannot be read: {error}"]) from None
    data = read_yaml(text)
    if isinstance(data, Mapping) and re.fullmatch(NAME, path.stem):
        data = {"name": path.stem, **data}
    return data, path.resolve().parent


def _find(source: str | Path) -> Path:
    ready = search_spaces_folder()
    for path in (Path(source), ready / f"{source}.yaml"):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name too long, or with a zero byte
            continue
    names = sorted(path.stem for path in ready.glob("*.yaml"))
    raise SpecError(
        [
            f"spec: got {shown(str(source))}, expected a file that exists or a ready spec "
            f"({', '.join(names) or 'there are none'}){nearest(str(source), names)}"
        ]
    )


def _overridden(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with the overrides in it; what is wrong with them is found with everything else."""
    result = dict(data)
    for name, value in overrides.items():
        if value is None:
            continue
        section, field = SHORT_OVERRIDES.get(name, (name, ""))
        value = {field: value} if field else value
        before = result.get(section)
        if section in _MERGED and isinstance(value, Mapping) and isinstance(before, Mapping):
            value = {**before, **value}
        result[section] = value
    return result
