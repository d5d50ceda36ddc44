"""What the user asked for: a validated, frozen `Spec`, with every problem of it reported at once."""

from autoprune.spec.load import load_spec
from autoprune.spec.sections import (
    Budget,
    Cluster,
    DistillSpace,
    PruneSpace,
    QuantizeSpace,
    Reference,
    Search,
    SpaceSpec,
    Train,
    TrainSpace,
)
from autoprune.spec.spec import Spec

__all__ = [
    "Budget",
    "Cluster",
    "DistillSpace",
    "PruneSpace",
    "QuantizeSpace",
    "Reference",
    "Search",
    "SpaceSpec",
    "Spec",
    "Train",
    "TrainSpace",
    "load_spec",
]
