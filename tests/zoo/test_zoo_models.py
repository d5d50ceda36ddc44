"""Every model of the zoo is what the zoo says: small, repeatable, and of the families that were promised."""

from __future__ import annotations

import importlib

import pytest
import torch
import zoo

from autoprune.tensors import call, tensors_in

LIBRARIES = {
    "huggingface": "transformers.models.bert.modeling_bert",
    "timm": "timm",
    "torchvision": "torchvision",
}
SAMPLE = (
    "huggingface_encoders:bert",
    "huggingface_encoders:t5",
    "huggingface_decoders:llama",
    "huggingface_vision:swin",
    "huggingface_signals:wav2vec2",
    "timm_models:mixer",
    "torchvision_models:shufflenet",
)
FAMILIES = (
    "residual",
    "dense concatenation",
    "inception branches",
    "depthwise-separable",
    "grouped convolution",
    "channel shuffle",
    "squeeze-excite",
    "U-Net skips",
    "pixel shuffle",
    "1-D and 3-D convolution",
    "MLP-Mixer",
    "text encoder",
    "text decoder",
    "fused qkv",
    "relative positions",
    "shared layers",
    "tied embeddings",
    "speech encoder",
    "segmentation and detection heads",
    "LSTM/GRU",
    "tabular",
    "autoencoder",
    "called twice",
    "hard-coded reshapes",
    "functional weights",
    "data-dependent control flow",
)


def library_of(name: str) -> str:
    return next((module for begin, module in LIBRARIES.items() if name.startswith(begin)), "")


OURS = [model for model in zoo.models() if not library_of(model.name)]


def outputs_twice(model: zoo.Model) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    torch.manual_seed(0)
    network, inputs = model.build().eval(), model.inputs()
    with torch.no_grad():
        first, second = (tensors_in(call(network, inputs)) for _ in range(2))
    return first, second, sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.name)
def test_runs_small_and_repeatable(model):
    first, second, params = outputs_twice(model)
    assert first and all(output.isfinite().all() for output in first)
    torch.testing.assert_close(first, second)
    assert 0 < params <= 2_000_000


@pytest.mark.parametrize("name", SAMPLE)
def test_models_of_libraries_run(name):
    try:
        importlib.import_module(library_of(name))
    except Exception as error:  # absent, or built for another torch, which ends in a RuntimeError
        pytest.skip(f"{library_of(name)} cannot be imported here: {error}")
    first, second, _ = outputs_twice(zoo.models(name)[0])
    torch.testing.assert_close(first, second)


def test_there_are_at_least_eighty_and_half_are_transformers():
    found = zoo.models()
    assert len(found) >= 80
    assert 2 * sum(model.is_transformer for model in found) >= len(found)


def test_no_two_have_one_name():
    names = [model.name for model in zoo.models()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_there(family):
    assert zoo.models(family)


def test_chosen_by_name_factory_or_family():
    assert [model.name for model in zoo.models("convolutions:inception")] == ["convolutions:inception"]
    assert {model.family for model in zoo.models("channel shuffle")} == {"channel shuffle"}
    assert len(zoo.models("bert")) == 1
