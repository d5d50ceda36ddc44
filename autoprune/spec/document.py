"""From YAML text to plain data, and what is wrong with the text, by line."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from autoprune.errors import SpecError


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
