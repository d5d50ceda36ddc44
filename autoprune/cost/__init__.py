"""What a candidate costs, exact and known before any training: params, macs, bops, size_bytes."""

from autoprune.cost.count import count, layer_table

__all__ = ["count", "layer_table"]
