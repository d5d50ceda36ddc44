"""The cache folder: what was measured on this machine once, and is worth keeping for later searches."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_cache(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file of the cache folder in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def cache_folder() -> Path:
    """Where calibrations are kept."""
    return Path(os.environ.get("AUTOPRUNE_CACHE") or Path.home() / ".cache" / "autoprune")
