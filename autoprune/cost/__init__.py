"""What a candidate costs, exact and known before any training: params, macs, bops, size_bytes, peak_memory_bytes."""

from autoprune.cost.count import count, layer_table
from autoprune.cost.terms import cost_terms

__all__ = ["cost_terms", "count", "layer_table"]
