"""A deployed network as files without code, and back: its graph, its layers, and the folder that they lie in."""

from autoprune.stored.reading import check_files, load

__all__ = ["check_files", "load"]
