"""Structure: which channels, heads and widths of a network can go, together with what, and how they are cut out."""

from autoprune.structure.analyse import SEARCH_SECONDS, Structure, Way, analyse, prepared
from autoprune.structure.cut import Observed, Removed
from autoprune.structure.groups import Group, Slice, frozen_layers
from autoprune.structure.proof import check_cut

__all__ = [
    "SEARCH_SECONDS",
    "Group",
    "Observed",
    "Removed",
    "Slice",
    "Structure",
    "Way",
    "analyse",
    "check_cut",
    "frozen_layers",
    "prepared",
]
