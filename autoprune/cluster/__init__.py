"""Where the search runs: the pool of warm workers. The only package that imports Ray."""

from autoprune.cluster.pool import Pool

__all__ = ["Pool"]
