"""What the user asked for: a validated, frozen `Spec`, with every problem of it reported at once."""

from autoprune.spec.cluster import Cluster, Shape
from autoprune.spec.load import load_spec
from autoprune.spec.parts import Reference
from autoprune.spec.sections import Budget, Search, SpaceSpec, Train
from autoprune.spec.spec import Spec
from autoprune.spec.techniques import DistillSpace, PruneSpace, QuantizeSpace, TrainSpace

__all__ = [
    "Budget",
    "Cluster",
    "DistillSpace",
    "PruneSpace",
    "QuantizeSpace",
    "Reference",
    "Search",
    "Shape",
    "SpaceSpec",
    "Spec",
    "Train",
    "TrainSpace",
    "load_spec",
]
