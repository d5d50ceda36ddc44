"""Rules of operations, one at a time: a layer, the operation, a layer; cut and zeroed must agree."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.structure import Observed, check_cut
from autoprune.structure.observe import observe
from autoprune.structure.rules import RULES

GRID = torch.rand(1, 5, 5, 2) * 2 - 1
PICK = torch.tensor([0, 2, 2, 1])
TURN = torch.tensor([[[0.8, -0.6, 0.0], [0.6, 0.8, 0.0]]])


def between(operation, channels=8, after=None, dims=1):
    """A pointwise layer of so many channels on (1, 3, 6…), the operation, and another that reads what it gives."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]

    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = kind(3, channels, 1), kind(after or channels, 2, 1)

        def forward(self, x):
            return self.leave(operation(self.enter(x)))

    torch.manual_seed(0)
    return Between(), torch.randn(1, 3, *(6,) * dims)


def free_and_right(network, inputs):
    """The free groups of `enter`; each of them is cut as it is zeroed."""
    observed = Observed(network, inputs)
    assert observed.seen.unknown == {}
    free = [g for g in observed.groups if not g.reason and not g.unproven]
    for group in free:
        for units in ([0], [group.units - 1, 1][: group.units - 1]):
            assert check_cut(network, inputs, {group.name: units}, visible=False) == "", group
    return [group.units for group in free if "enter" in group.layers]


FOLLOWED = {
    "halves by shape": (
        lambda x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2].tanh()], 1),
        8,
        None,
        [4],
    ),
    "thirds by shape": (lambda x: x[:, : x.shape[1] // 3] * x[:, -(-2 * x.shape[1] // 3) :], 9, 3, [3]),
    "all but the last two": (lambda x: x[:, :-2], 8, 6, [6]),
    "two in three": (lambda x: torch.cat(x.split(x.shape[1] // 3, 1)[:2], 1), 9, 6, [3]),
    "chunks": (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], 8, 4, [4]),
    "glu": (lambda x: F.glu(x, 1), 8, 4, [4]),
    "every second": (lambda x: x[:, ::2], 8, 4, [4]),
    "with itself": (lambda x: torch.cat([x, x.relu()], 1), 8, 16, [8]),
    "repeated": (lambda x: x.repeat(1, 2, 1), 8, 16, [8]),
    "each repeated": (lambda x: x.repeat_interleave(2, 1), 8, 16, [8]),
    "padded": (lambda x: F.pad(x, (0, 0, 1, 2)), 8, 11, [8]),
    "picked in time": (lambda x: x[:, :, PICK], 8, None, [8]),
    "selected in time": (lambda x: x.index_select(2, PICK), 8, None, [8]),
    "gathered in time": (lambda x: x.gather(2, PICK.expand(1, x.shape[1], 4)), 8, None, [8]),
    "scattered in time": (
        lambda x: torch.zeros_like(x).scatter_add(2, PICK.expand(1, x.shape[1], 4), x[..., :4]),
        8,
        None,
        [8],
    ),
    "added in time": (lambda x: torch.zeros_like(x).index_add(2, PICK, x[..., :4]), 8, None, [8]),
    "masked in time": (lambda x: x.transpose(1, 2)[x[:, 0] < 9.0].T[None], 8, None, []),
    "einsum": (
        lambda x: torch.einsum("bct,bdt->bcd", x, x.sum(1, keepdim=True).expand(-1, 4, -1)),
        8,
        None,
        [8],
    ),
    "distances": (lambda x: torch.cdist(x.mT, x.mT), 8, 6, [8]),
    "spectrum": (lambda x: torch.fft.rfft(x, dim=2).abs(), 8, None, [8]),
    "normalised": (lambda x: F.normalize(x, dim=1), 8, None, [8]),
    "cosine": (lambda x: F.cosine_similarity(x, x.roll(1, 2), dim=1)[:, None], 8, 1, [8]),
    "running sum": (lambda x: x.cumsum(2), 8, None, [8]),
    "recurrent": (lambda x: x.flip(2), 8, None, [8]),
    "a slice written in time": (lambda x: torch.slice_scatter(x, x[..., :3].tanh(), 2, 1, 4), 8, None, [8]),
    "a half written": (
        lambda x: torch.slice_scatter(x, x[:, x.shape[1] // 2 :].tanh(), 1, 0, x.shape[1] // 2),
        8,
        None,
        [4],
    ),
    "a place written in time": (lambda x: torch.select_scatter(x, x[..., 0].tanh(), 2, 3), 8, None, [8]),
    "a diagonal in time": (lambda x: (x[..., None] * x[:, :, None]).diagonal(1, 2, 3), 8, None, [8]),
    "onto a diagonal of time": (lambda x: x.diag_embed(1).tanh().sum(-1), 8, None, [8]),
    "filled in time": (lambda x: x.index_fill(2, PICK, 0.5), 8, None, [8]),
    "the second in time": (lambda x: x + x.kthvalue(2, 2, keepdim=True).values, 8, None, [8]),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_units_are_followed_through_an_operation_on_signals(name):
    operation, channels, after, expected = FOLLOWED[name]
    assert sorted(free_and_right(*between(operation, channels, after))) == sorted(expected)


IMAGES = {
    "folded": (lambda x: F.fold(F.unfold(x, 2), (6, 6), 2), 6, None),
    "unshuffled": (lambda x: F.pixel_unshuffle(x, 2), 6, 24),
    "enlarged": (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), 6, None),
    "sampled": (lambda x: F.grid_sample(x, GRID, align_corners=False), 6, None),
    "pooled": (lambda x: F.adaptive_max_pool2d(x, 3), 6, None),
    "unpooled": (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), 6, None),
    "moved": (
        lambda x: F.grid_sample(x, F.affine_grid(TURN, (1, 1, 6, 6), False), align_corners=False),
        6,
        None,
    ),
    "reflected": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 6, None),
}


@pytest.mark.parametrize("name", IMAGES)
def test_units_are_followed_through_an_operation_on_images(name):
    operation, channels, after = IMAGES[name]
    assert free_and_right(*between(operation, channels, after, dims=2)) == [channels]


PINNED = {
    "softmax over channels": (lambda x: x.softmax(1), "a softmax runs over it"),
    "sorted": (lambda x: x.sort(1).values, "sort runs along it"),
    "picked": (lambda x: x[:, PICK.repeat(2)], "its positions are looked up by number"),
    "unequal pieces": (lambda x: torch.cat(x.split(3, 1), 1), "it is split into unequal pieces"),
    "in steps": (lambda x: x[:, ::3].repeat(1, 3, 1)[:, :8], "it is sliced in steps"),
    "a triangle": (lambda x: x @ x.mT.tril(), "a triangle of it is kept"),
    "values under a mask": (
        lambda x: x * x.masked_select(x < 9.0).sum(),
        "its positions are looked up by number",
    ),
    "the largest": (lambda x: x + x.argmax(1, keepdim=True), "its positions are told by number"),
}


@pytest.mark.parametrize("name", PINNED)
def test_units_stay_where_their_number_matters(name):
    operation, reason = PINNED[name]
    after = 8
    observed = Observed(*between(operation, 8, after))
    assert reason in {group.reason for group in observed.groups if "enter" in group.layers}


def test_a_mean_over_units_is_doubted():
    observed = Observed(*between(lambda x: x * x.mean(1, keepdim=True)))
    assert [g.unproven for g in observed.groups if g.name == "enter"] == ["a mean runs over it"]


def test_attention_without_a_scale_is_doubted_and_with_one_is_not():
    def attention(scale):
        def operation(x):
            x = x.unflatten(1, (2, 4)).mT
            return F.scaled_dot_product_attention(x, x, x, scale=scale).mT.flatten(1, 2)

        groups = Observed(*between(operation)).groups
        return {group.kind: group.unproven for group in groups if "enter" in group.layers}

    assert attention(None) == {"heads": "", "head_dim": "attention divides by the root of its length"}
    assert attention(0.5) == {"heads": "", "head_dim": ""}


def test_packed_sequences_are_followed():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.read, self.leave = (
                nn.Linear(3, 6),
                nn.LSTM(6, 5, batch_first=True),
                nn.Linear(5, 2),
            )

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(self.enter(x), torch.tensor([4]), batch_first=True)
            return self.leave(self.read(packed)[1][0][-1])

    torch.manual_seed(0)
    assert free_and_right(Packed(), torch.randn(1, 4, 3)) == [6]


def test_rules_have_the_names_of_operations():
    known = {name.partition("::")[2].partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert sorted(name for name in RULES if name not in known and f"{name}_" not in known) == []


def test_a_rule_that_meets_a_form_it_does_not_know_is_no_rule():
    network, inputs = between(lambda x: x.as_strided((1, 8, 3), (48, 6, 2)), 8)
    assert list(observe(network, inputs).unknown) == ["aten::as_strided"]
