"""Lottery tickets: weights that were lucky when they were drawn are found by training, and trained again alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autoprune.compress.gradual import Gradual, Zeros, alike, copied
from autoprune.compress.technique import Recovery

Weights = dict[str, torch.Tensor]


def draw_ticket(
    zeros: Zeros,
    recovery: Recovery,
    reference: nn.Module,
    gradual: Gradual,
    initial: Callable[[int], nn.Module],
) -> dict[str, Any]:
    """Prune by magnitude, rewind what survives to its early weights, train; `gradual.rounds` times.

    Frankle & Carbin, "The lottery ticket hypothesis", 2019, https://arxiv.org/abs/1803.03635. The first round prunes
    the network as it comes, trained; each takes the same share of what is left. With `gradual.rewind`, weights are
    rewound to what they were after so much of the stretch (Frankle et al., "Linear mode connectivity and the lottery
    ticket hypothesis", 2020, https://arxiv.org/abs/1912.05671). What is left is the ticket, not yet trained: that
    is left to the rest of the stretch, which is twice what one round trains.

    Args:
        zeros: what goes, chosen by magnitude; afterwards its network is the ticket.
        recovery: the training.
        reference: the dense network.
        gradual: `rounds`, `rewind` and `compare` are read.
        initial: the network before any training, in the form of that of `zeros`; 0 gives the one that the reference
            was trained from, 1 another draw.

    Returns:
        Plain data: `rounds`, and `rewind`: the `epochs` of training of what was rewound to and the `place` in the
        stretch that they were drawn by. Where compared, `dense_quality`, `quality` after the training of each round but
        the last, `trained`: what the ticket comes to in the rest of the stretch, and `reinitialised`: what the same
        mask does from other initial weights. That training is not taken from the stretch.
    """
    early = initial(0)
    spent = recovery.left
    recovery.train(early, gradual.rewind)
    rewound = copied(early.state_dict())
    record: dict[str, Any] = {
        "rounds": gradual.rounds,
        "rewind": {"epochs": (spent - recovery.left) * recovery.epochs, "place": recovery.place},
    }
    if gradual.compare:
        record |= {"quality": [], "dense_quality": recovery.quality(reference)}
    for done in range(1, gradual.rounds + 1):
        zeros.choose(alike(done / gradual.rounds))
        _start_from(rewound, zeros)
        if done < gradual.rounds:
            recovery.train(
                zeros.network, (1.0 - gradual.rewind) / (gradual.rounds + 1), lambda *_: zeros.zero()
            )
            if gradual.compare:
                record["quality"].append(recovery.quality(zeros.network))
    if gradual.compare:
        for name, start in (("trained", rewound), ("reinitialised", _redrawn(rewound, initial))):
            _start_from(start, zeros)
            recovery.train_aside(zeros.network, lambda *_: zeros.zero())
            record[name] = recovery.quality(zeros.network)
        _start_from(rewound, zeros)
    return record


def _start_from(weights: Weights, zeros: Zeros) -> None:
    zeros.network.load_state_dict(weights)
    zeros.zero()


def _redrawn(rewound: Weights, initial: Callable[[int], nn.Module]) -> Weights:
    """Other initial weights: of another draw. Those that no draw changes (pretrained) are shuffled, each among itself,
    and so come from their own distribution."""
    first, other = initial(0).state_dict(), initial(1).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: _shuffled(rewound[name], generator)
        if tensor.dim() > 1 and torch.equal(tensor, first[name])
        else tensor.detach().clone()
        for name, tensor in other.items()
    }


def _shuffled(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return weight.reshape(-1)[torch.randperm(weight.numel(), generator=generator)].view(weight.shape)
