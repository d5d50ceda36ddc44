"""What a candidate learns from besides the labels: teachers, their layers, or itself."""

from autoprune.compress.distill.distill import Distill

__all__ = ["Distill"]
