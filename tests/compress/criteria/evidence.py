"""Networks of three families, data for them, and scores of their groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from prunable_networks import Residual, example, make
from sequence_networks import LENGTH, WORDS, Recurrent, Separate, sequence_example
from torch import nn

from autoprune.compress.criteria import Evidence, score
from autoprune.structure import Group, Observed
from autoprune.task import Batch
from autoprune.tensors import Inputs, map_tensors


class Named(Separate):
    """A transformer that takes and returns dicts."""

    def forward(self, ids, scale):
        return {"logits": super().forward(ids) * scale[:, None]}


class CrossEntropy:
    """A task whose loss is that of classification."""

    def loss(self, outputs, batch):
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        return nn.functional.cross_entropy(logits, batch.targets)


class Squares:
    """A task whose loss is half the squared distance to the targets."""

    def loss(self, outputs, batch):
        return 0.5 * (outputs - batch.targets).square().sum()


def residual() -> tuple[nn.Module, Inputs]:
    """A CNN with residuals, and inputs for it."""
    return make(Residual), torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def transformer() -> tuple[nn.Module, Inputs]:
    """Attention with heads, and a dict of inputs."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(0, WORDS, (6, LENGTH), generator=draw)
    return Named().eval(), {"ids": ids, "scale": torch.rand(6, generator=draw)}


def recurrent() -> tuple[nn.Module, Inputs]:
    """An LSTM behind an embedding, and inputs for it."""
    torch.manual_seed(0)
    shape = sequence_example(Recurrent).shape[1:]
    return Recurrent().eval(), torch.randint(
        0, WORDS, (6, *shape), generator=torch.Generator().manual_seed(2)
    )


FAMILIES = (residual, transformer, recurrent)


def batches_of(inputs: Inputs, count: int = 2) -> list[Batch]:
    """The same inputs with other labels each time."""
    draw = torch.Generator().manual_seed(3)
    return [Batch(inputs, torch.randint(0, 3, (6,), generator=draw)) for _ in range(count)]


def free_groups(network: nn.Module, inputs: Inputs) -> dict[str, Group]:
    """The groups that can be pruned, by name."""
    one = map_tensors(lambda tensor: tensor[:1], inputs)
    return {group.name: group for group in Observed(network, one).groups if not group.reason}


def images(count: int) -> list[Batch]:
    """Batches for the networks of `prunable_networks`, and five targets for each image."""
    draw = torch.Generator().manual_seed(3)
    return [
        Batch(torch.randn(4, 3, 8, 8, generator=draw), torch.randn(4, 5, generator=draw))
        for _ in range(count)
    ]


def groups(network: nn.Module) -> dict[str, Group]:
    """The groups of one of `prunable_networks`."""
    return free_groups(network, example())


def scores(name: str, network: nn.Module, count: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """The scores of one of `prunable_networks`."""
    return score(name, evidence(network, images(count), seed=seed))


def evidence(network: nn.Module, batches: Sequence[Batch], seed: int = 0) -> Evidence:
    """What a criterion sees of one of `prunable_networks`."""
    return Evidence(network, Squares(), batches, list(groups(network).values()), seed)
