"""What the processor of this machine is and has, as far as Linux says. Nothing of torch is loaded here."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

DESCRIPTION = Path("/proc/cpuinfo")
SUMS_OF_BYTES = {"avx512_vnni", "avx_vnni", "amx_int8"}


def processor_name(description: Path = DESCRIPTION) -> str:
    """Its model.

    Args:
        description: what Linux tells of the processor.
    """
    lines = (_read(description) or "").splitlines()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def adds_bytes_exactly(description: Path = DESCRIPTION) -> bool | None:
    """Whether products of bytes are added up in 32 bits (VNNI, AMX), or saturate at 16; None where it is not told.

    Args:
        description: as for `processor_name`.
    """
    told = _read(description)
    if told is None:
        return None
    flags = set(re.findall(r"\w+", told))
    return "avx2" not in flags or bool(flags & SUMS_OF_BYTES)


@cache
def _read(description: Path) -> str | None:
    """Read once: it takes long where there are many processors, and every session asks."""
    try:
        return description.read_text(encoding="utf-8")
    except OSError:
        return None
