"""What the processor of this machine has, as far as the machine says. Nothing of torch is loaded here."""

from __future__ import annotations

import re
from pathlib import Path

DESCRIPTION = Path("/proc/cpuinfo")
SUMS_OF_BYTES = {"avx512_vnni", "avx_vnni", "amx_int8"}


def adds_bytes_exactly(description: Path = DESCRIPTION) -> bool | None:
    """Whether products of bytes are added up in 32 bits (VNNI, AMX), or saturate at 16; None where it is not told.

    Args:
        description: what Linux tells of the processor.
    """
    try:
        flags = set(re.findall(r"\w+", description.read_text(encoding="utf-8")))
    except OSError:
        return None
    return "avx2" not in flags or bool(flags & SUMS_OF_BYTES)
