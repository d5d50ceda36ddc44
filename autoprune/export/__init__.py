"""From a candidate to a folder that runs, is proven to be what was measured, and loads without code."""

from autoprune.export.artifact import Contents, check_files, load, write_artifact
from autoprune.export.parity import check_parity

__all__ = ["Contents", "check_files", "check_parity", "load", "write_artifact"]
