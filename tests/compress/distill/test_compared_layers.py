"""Which layers of two networks are compared: in any form that what is trained may have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from autoprune.compress.distill.features import compared, listening, observe
from autoprune.compress.fake_quantize import wrap_for_training

IMAGE = torch.randn(1, 3, 8, 8)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def plain(width: int = 8) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))


def names(student: nn.Module, teacher: nn.Module, *patterns: str, positions: bool = False) -> list[str]:
    observed = observe(student, IMAGE), observe(teacher, IMAGE)
    pairs, _ = compared(*observed, patterns or ("auto",), positions=positions)
    return [pair.student for pair in pairs]


def test_three_blocks_are_taken_evenly_spaced() -> None:
    assert names(Residual(6), Residual()) == ["blocks.0", "blocks.2", "blocks.3"]


def test_without_blocks_it_is_what_goes_into_the_next_layer() -> None:
    model = plain()
    model(IMAGE)
    assert names(model, model) == ["2", "5"]
    assert names(model, model, positions=True) == ["2", "4"]


def test_in_a_graph_the_last_layer_of_a_block_stands_for_it() -> None:
    graph = fx.symbolic_trace(Residual(6))
    assert names(graph, Residual()) == ["blocks.0.norm", "blocks.2.norm", "blocks.3.norm"]
    assert names(graph, Residual(), "blocks.1", "stem") == ["stem", "blocks.1.norm"]


@pytest.mark.parametrize("traced", [True, False], ids=["graph", "modules"])
def test_fake_quantized_layers_are_found_by_their_names(traced: bool) -> None:
    model = Residual().train()
    bits = {name: (8, 8) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    wrapped = wrap_for_training(model, bits, IMAGE if traced else {"x": IMAGE, "y": 0})
    observed = observe(wrapped, IMAGE), observe(Residual(), IMAGE)
    pairs, left_out = compared(*observed, ("stem", "blocks.1.conv"), positions=True)
    assert [(pair.student, pair.channels) for pair in pairs] == [("stem", 1), ("blocks.1.conv", 1)]
    assert not left_out and wrapped.training


def test_the_outermost_of_nested_matches_counts() -> None:
    assert names(Residual(), Residual(), "blocks.[01]*") == ["blocks.0", "blocks.1"]


def test_layers_that_only_one_network_has_are_left_out_with_the_reason() -> None:
    pairs, left_out = compared(
        observe(plain_with_head(), IMAGE), observe(Residual(), IMAGE), ("stem", "head"), positions=False
    )
    assert [pair.student for pair in pairs] == ["head"]
    assert left_out == {"stem": "gives no tensor in the student"}


def plain_with_head() -> nn.Module:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mean((2, 3)))

    return Other()


def test_features_of_other_axes_are_left_out() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(192, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stem(x.flatten(1))

    pairs, left_out = compared(observe(Flat(), IMAGE), observe(Residual(), IMAGE), ("stem",), positions=False)
    assert not pairs and left_out == {"stem": "gives 2 axes in the student, 4 in the teacher"}


class Recurrent(nn.Module):
    """Time first, as torch's recurrent layers have it unless asked otherwise."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(9, 4), nn.LSTM(4, width)
        self.head = nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids.T))[0][-1])


def test_the_axes_of_examples_and_channels_are_found() -> None:
    ids = torch.zeros(1, 7).long()
    pairs, _ = compared(
        observe(Recurrent(4), ids), observe(Recurrent(), ids), ("embed", "rnn"), positions=True
    )
    assert [(p.student, p.examples, p.channels, p.widths) for p in pairs] == [
        ("embed", 1, 2, (4, 4)),
        ("rnn", 1, 2, (4, 6)),
    ]


def test_channels_last_is_told_from_channels_first_by_what_was_pruned() -> None:
    class Permuting(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, width, 1), nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(self.stem(x).movedim(1, -1)).movedim(-1, 1)

    class Outer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = Permuting(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).mean((2, 3))

    pairs, _ = compared(observe(Outer(4), IMAGE), observe(Outer(8), IMAGE), ("body",), positions=True)
    assert pairs[0].channels == 1  # 8 wide and 8 pixels: only the student tells


def test_a_layer_called_twice_gives_what_it_gave_last() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    model, x = Twice(), torch.randn(2, 3)
    with listening(model, ["layer"]) as seen:
        said = model(x)
    assert torch.equal(said, seen["layer"])
    assert not model.layer._forward_hooks


def test_what_a_layer_gives_is_kept_from_operations_in_place() -> None:
    model = plain()
    model(IMAGE)
    with listening(model.eval(), ["1"]) as seen:
        model(IMAGE)
    assert (seen["1"] < 0).any()


@pytest.mark.slow
def test_hooks_are_heard_in_a_compiled_network() -> None:
    model = Residual()
    with listening(model, ["blocks.1"]) as seen:
        compiled = torch.compile(model)
        for _ in range(2):
            seen.clear()
            compiled(IMAGE).sum().backward()
            assert seen["blocks.1"].requires_grad
    torch.compiler.reset()


def test_a_bert_is_compared_by_its_encoder_layers() -> None:
    transformers = pytest.importorskip("transformers")

    def bert(**sizes: Any) -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, **sizes
        )
        made: nn.Module = transformers.BertForSequenceClassification(config)
        return made

    inputs = {"input_ids": torch.ones(1, 6).long(), "attention_mask": torch.ones(1, 6).long()}
    pairs, _ = compared(
        observe(bert(intermediate_size=8), inputs),
        observe(bert(intermediate_size=32), inputs),
        ("auto",),
        positions=True,
    )
    assert [pair.student for pair in pairs] == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert {(pair.examples, pair.channels) for pair in pairs} == {(0, 2)}
