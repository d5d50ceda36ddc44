"""The run folder: every trial of one search, kept durably, and what can be told from them."""

from autoprune.study.study import Study
from autoprune.study.trial import Trial

__all__ = ["Study", "Trial"]
