"""The model families: shapes, sizes, names, and arguments that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from autoprune.references import resolve

small_cnn = resolve("small_cnn.py:small_cnn")
resnet = resolve("resnet.py:resnet")


FAMILIES: dict[str, tuple[int, ...]] = {
    "mlp.py:mlp": (1, 28, 28),
    "ds_cnn.py:ds_cnn": (1, 49, 20),
    "signal_cnn.py:signal_cnn": (9, 128),
    "mobilenet.py:mobilenet": (3, 32, 32),
    "vit.py:ViT": (1, 28, 28),
}
"""Family -> the shape of an example."""

OTHERS = [
    ("mlp.py:mlp", {"width": 0.25}),
    ("mlp.py:mlp", {"depth": 1}),
    ("ds_cnn.py:ds_cnn", {"depth": 2, "kernel_size": 5}),
    ("signal_cnn.py:signal_cnn", {"width": 0.5, "kernel_size": 7}),
    ("mobilenet.py:mobilenet", {"kernel1": 7, "depth2": 1, "expansion3": 2.0}),
    ("mobilenet.py:mobilenet", {"width": 0.5, "squeeze_excite": False}),
    ("vit.py:ViT", {"depth": 1, "heads": 3, "width": 48, "mlp_ratio": 1.0}),
]


@pytest.mark.parametrize(("family", "arguments"), [*((name, {}) for name in FAMILIES), *OTHERS])
def test_a_member_of_a_family_runs_and_shares_names_with_the_baseline(
    family: str, arguments: dict[str, Any]
) -> None:
    make = resolve(family)
    model = make(**arguments).eval()
    assert model(torch.rand(2, *FAMILIES[family])).shape[0] == 2
    assert set(model.state_dict()) <= set(make().state_dict())


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("mlp.py:mlp", {"depth": 0}),
        ("ds_cnn.py:ds_cnn", {"kernel_size": 4}),
        ("signal_cnn.py:signal_cnn", {"width": 0}),
        ("mobilenet.py:mobilenet", {"kernel2": 4}),
        ("mobilenet.py:mobilenet", {"depth3": 0}),
        ("vit.py:ViT", {"patch": 5}),
    ],
)
def test_impossible_members_are_refused_with_what_was_given(family: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{family.partition(':')[2]}: got .*expected"):
        resolve(family)(**arguments)


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "arguments", [{}, {"depth": 1}, {"width": 0.25, "kernel_size": 5}, {"in_channels": 3}]
)
def test_a_small_cnn_runs_and_can_be_traced(arguments: dict[str, float]) -> None:
    model = small_cnn(channels=8, **arguments).eval()
    images = torch.rand(2, int(arguments.get("in_channels", 1)), 16, 16)
    assert model(images).shape == (2, 10)
    assert torch.equal(fx.symbolic_trace(model)(images), model(images))


def test_width_and_depth_make_a_small_cnn_smaller() -> None:
    full = small_cnn()
    assert params(full) > params(small_cnn(width=0.75)) > params(small_cnn(width=0.5))
    assert params(full) > params(small_cnn(depth=2)) > params(small_cnn(depth=1))


def test_a_shallow_small_cnn_shares_names_with_the_deep_one() -> None:
    deep, shallow = small_cnn().state_dict(), small_cnn(depth=2).state_dict()
    assert set(shallow) < set(deep)


@pytest.mark.parametrize("arguments", [{"kernel_size": 4}, {"depth": 0}, {"width": 0}])
def test_impossible_small_cnns_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="small_cnn: got"):
        small_cnn(**arguments)


def test_the_defaults_are_resnet_20() -> None:
    model = resnet()
    shortcuts = sum(p.numel() for name, p in model.named_parameters() if "shortcut" in name)
    assert params(model) - shortcuts == 269_722  # 0.27M in the paper
    assert "layer3.2.bn2.running_var" in model.state_dict()


@pytest.mark.parametrize("arguments", [{}, {"blocks1": 1, "blocks3": 2}, {"width": 0.5}, {"kernel_size": 5}])
def test_a_resnet_runs_and_can_be_traced(arguments: dict[str, float]) -> None:
    model = resnet(**arguments).eval()
    images = torch.rand(2, 3, 32, 32)
    assert model(images).shape == (2, 10)
    assert torch.equal(fx.symbolic_trace(model)(images), model(images))


def test_the_shortcut_is_the_padded_one_of_the_paper() -> None:
    shortcut = resnet().layer2[0].shortcut
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(shortcut(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))


def test_fewer_blocks_are_the_first_ones() -> None:
    assert set(resnet(blocks2=1).state_dict()) < set(resnet().state_dict())


@pytest.mark.parametrize("arguments", [{"blocks2": 0}, {"kernel_size": 2}, {"width": -1}])
def test_impossible_resnets_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="resnet: got"):
        resnet(**arguments)


def text_encoder(**arguments: Any) -> nn.Module:
    """A tiny text encoder."""
    network: nn.Module = resolve("text_encoder.py:TextEncoder")(
        vocabulary=20, length=8, classes=3, width=16, head_dim=4, **arguments
    )
    return network.eval()


def character_gpt(**arguments: Any) -> nn.Module:
    """A tiny character model."""
    network: nn.Module = resolve("character_gpt.py:CharacterGPT")(
        vocabulary=20, length=8, width=16, head_dim=4, **arguments
    )
    return network.eval()


IDS = torch.randint(2, 20, (2, 8))


@pytest.mark.parametrize("arguments", [{}, {"depth": 1}, {"heads": 2}, {"mlp_ratio": 0.5}])
def test_text_networks_run(arguments: dict[str, Any]) -> None:
    assert text_encoder(**arguments)(ids=IDS, mask=torch.ones_like(IDS)).shape == (2, 3)
    assert character_gpt(**arguments)(IDS[:, :5]).shape == (2, 5, 20)


def test_a_text_encoder_does_not_see_padding() -> None:
    model, padded = text_encoder(), IDS.clone()
    padded[:, 5:] = 0
    mask = (torch.arange(8) < 5).long().expand(2, 8)
    assert torch.allclose(model(padded, mask), model(IDS[:, :5], mask[:, :5]), atol=1e-5)


def test_a_character_model_does_not_look_ahead() -> None:
    model, other = character_gpt(), IDS.clone()
    other[:, 5:] = 3
    assert torch.allclose(model(IDS)[:, :5], model(other)[:, :5], atol=1e-5)


def test_shallow_text_networks_are_the_first_blocks() -> None:
    for family in (text_encoder, character_gpt):
        assert set(family(depth=1).state_dict()) < set(family(depth=2).state_dict())
