"""Model spaces of NNI: labels become choices, a point becomes a network."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("nni")
pytest.importorskip("pytorch_lightning")

from autoprune.errors import MissingExtra, ModelError, NoNetwork, UnresolvedReference
from autoprune.nni_imports import nni_module
from autoprune.space import Options
from autoprune.task import ClassificationTask, model_factory
from autoprune.task.model_space import BASELINES, SampledSpace, space_of

sys.path.insert(0, str(Path(__file__).parent))
import nni_spaces

TINY = {
    "NasBench101": "stem_out_channels=8&num_stacks=2&num_modules_per_stack=1",
    "NasBench201": "stem_out_channels=8&num_modules_per_stack=1",
    "MobileNetV3Space": "num_labels=10",
    "ProxylessNAS": "num_labels=10&width_mult=0.25",
    "ShuffleNetSpace": "num_labels=10",
    "AutoFormer": "num_labels=10&img_size=32&search_embed_dim=[32, 48]&search_depth=[1, 2]&search_num_heads=[2, 4]",
}


def options_of(factory: Any) -> dict[str, Options]:
    space = space_of(factory)
    assert space is not None
    return space.options


def test_mutables_become_choices_by_their_labels() -> None:
    space = SampledSpace("Small", nni_spaces.Small)
    assert space.options == {
        "width": Options((8, 4, 16), 8),
        "block": Options(("wide", "none"), "wide"),
        "depth": Options((1, 2), 1),
    }


def test_a_point_becomes_a_frozen_network_with_weights_from_the_seed() -> None:
    space = SampledSpace("Small", nni_spaces.Small)
    torch.manual_seed(3)
    one = space(width=4, block="none", depth=2)
    torch.manual_seed(3)
    other = space(width=4, block="none", depth=2)
    assert [type(layer) for layer in one.body] == [nn.Conv2d, nn.Conv2d] and one.stem.out_channels == 4
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_inputs_that_are_picked_together_or_each_on_its_own() -> None:
    space = SampledSpace("Inputs", nni_spaces.Inputs)
    assert space.options["one"].values == (0, 1, 2)
    assert space.options["two"].values == ("0 1", "0 2", "1 2")
    assert space.options["any/1"].values == (False, True)
    model, x = space(one=2, two="1 2", **{"any/0": False}), torch.rand(2, 4)
    _, b, c = (layer(x) for layer in model.layers)
    assert torch.allclose(model(x), c + (b + c) + b)  # the first one is read by none


def test_values_that_are_no_numbers_and_numbers_on_a_scale() -> None:
    space = SampledSpace("Odd", nni_spaces.Odd)
    assert space.options["kernel"].values == ("(3, 3)", "(1, 3)")
    assert space.options["rate"].values[:2] == (0.0, 0.0625) and 0.5 in space.options["rate"].values
    assert space(kernel="(1, 3)", rate=0.5).conv.kernel_size == (1, 3)


def test_the_baseline_is_named_behind_the_question_mark_and_arguments_are_the_class_s() -> None:
    factory = model_factory("nni:NasBench201?stem_out_channels=4&num_modules_per_stack=1&cell/0_1=none")
    assert options_of(factory)["cell/0_1"].neutral == "none"
    assert factory().stem[0].out_channels == 4


QUICK = ("AutoFormer", "DARTS", "NasBench101", "NasBench201")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BASELINES]
)
def test_every_space_of_the_hub_makes_its_baseline(name: str) -> None:
    factory = model_factory(f"nni:{name}?{TINY.get(name, 'width=[4, 8]&num_cells=[3]')}")
    assert len(options_of(factory)) > 5
    model = factory().eval()
    outputs = model(torch.rand(2, 3, 32, 32))
    assert outputs.shape == (2, 10)
    outputs.sum().backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in model.parameters()]
    assert any(reached[:2]), "the default samples of some spaces do not look at their input"


def test_points_that_the_space_itself_excludes_are_no_networks() -> None:
    factory = model_factory(f"nni:NasBench101?{TINY['NasBench101']}")
    edges = {name: True for name in options_of(factory) if name.startswith("cell/input")}
    with pytest.raises(NoNetwork, match="exclude each other: Expected at most 9 edges"):
        factory(**edges)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("nni:MobilenetV3Space", "did you mean 'MobileNetV3Space'"),
        ("nni:NasBench201?cell/0_4=none", "did you mean 'cell/0_"),
        ("nni:NasBench201?cell/0_1=conv_5x5", "expected one of none, skip_connect"),
        ("nni:NasBench201?labels=3", "unknown argument 'labels'"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(reference: str, sentence: str) -> None:
    with pytest.raises(UnresolvedReference, match=sentence):
        model_factory(reference)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (nni_spaces.Colliding, "the label 'same' stands for Categorical"),
        (nni_spaces.Unlabelled, "Label must be specified manually"),
        (nni_spaces.Many, "more than 256 combinations"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused_with_the_reason(space: type, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        SampledSpace("mine.py:Space", space)


def test_a_task_takes_a_class_an_object_or_a_reference() -> None:
    data = tuple(tensor.numpy() for tensor in nni_spaces.images())
    reference = f"{nni_spaces.__file__}:Small"
    for model in (nni_spaces.Small, nni_spaces.Small(classes=4), reference):
        task = ClassificationTask(model, data)
        assert task.architecture["block"] == ("wide", "none")
        assert task.model(width=16).stem.out_channels == 16
    assert ClassificationTask(nni_spaces.Small, data, classes=7).model().head.out_features == 7


def test_it_crosses_to_a_worker() -> None:
    space = pickle.loads(pickle.dumps(SampledSpace("Small", nni_spaces.Small)))
    assert space(width=16).stem.out_channels == 16


def test_nothing_of_nni_is_loaded_before_it_is_asked_for_and_its_pickles_never() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, autoprune.task, autoprune.search.samplers; print('nni' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"
    package = Path(__file__).parents[2] / "autoprune"
    code = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    assert not any("nni.load(" in text or "nni.dump(" in text or "Experiment(" in text for text in code)


def test_without_nni_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.nni_imports.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"nni:DARTS needs nni .*pip install 'autoprune\[nni\]'"):
        nni_module("nni", "nni:DARTS")
