"""From YAML text to plain data, and what is wrong with the text, by line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from autoprune.errors import SpecError

_HALF = re.compile("[\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a field given twice (YAML would keep the last, silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The plain data that `text` holds.

    Raises:
        SpecError: it is not YAML; the line is named where YAML knows it.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpecError([f"{where}not valid YAML: {error.problem or error.context}"]) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise SpecError([f"not valid YAML: {' '.join(str(error).split())}"]) from None


def unwritable(data: Any) -> list[str]:
    """One line for each text in plain data that no file can hold, because it has half of a two-part character in it."""
    problems, left, seen = [], [("", data)], set[int]()
    while left:
        path, part = left.pop()
        if isinstance(part, str) and not _is_writable(part):
            problems.append(f"{path or 'spec'}: got {ascii(part)[:60]}, expected a text of whole characters")
        if not isinstance(part, Mapping | list | tuple) or id(part) in seen:
            continue
        seen.add(id(part))
        inside = list(part.items()) if isinstance(part, Mapping) else list(enumerate(part))
        wrong = [key for key, _ in inside if isinstance(key, str) and not _is_writable(key)]
        problems += [
            f"{path or 'spec'}: got the name {ascii(key)[:60]}, expected whole characters" for key in wrong
        ]
        left += [(f"{path}.{key}".lstrip("."), item) for key, item in inside if key not in wrong]
    return problems


def _is_writable(text: str) -> bool:
    return _HALF.search(text) is None
