"""Choices that are alike: where there are hundreds, the effect of a kind is looked at instead of that of each."""

from __future__ import annotations

import re
from collections.abc import Iterable


def kinds(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that differ in nothing but numbers, together: `s2_i0_ks` and `s3_i1_ks` are of the kind `s#_i#_ks`."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return found
