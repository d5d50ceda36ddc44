"""Where networks come from, and what is said when they do not come."""

from __future__ import annotations

import inspect
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.errors import BadInput, ModelError, UnresolvedReference
from autoprune.references import split_query
from autoprune.task import load_model, load_task, model_factory

MINE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, *, depth: int = 1):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(3, width) for _ in range(depth)])
    def forward(self, x):
        return self.layers[0](x)

def broken(): raise KeyError("size")
def three(): return 3
ready = Net(5)
number = 3

def data():
    import numpy as np
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 4
"""
TINY = "hidden_size=16&num_hidden_layers=1&num_attention_heads=2&intermediate_size=8&vocab_size=30"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)


def test_a_query_is_read_as_yaml() -> None:
    assert split_query("a:b?x=1&y=true&z=[1, 2]&w=a%26b") == (
        "a:b",
        {"x": 1, "y": True, "z": [1, 2], "w": "a&b"},
    )
    assert split_query("a:b") == ("a:b", {})


@pytest.mark.parametrize("reference", ["a:b?width", "a:b?=3", "a:b?x=[1"])
def test_a_query_that_cannot_be_read_is_refused(reference: str) -> None:
    with pytest.raises(UnresolvedReference, match="a:b"):
        split_query(reference)


def test_arguments_of_a_reference_are_the_baseline_and_can_be_searched(folder: Path) -> None:
    make = model_factory("mine.py:Net?width=6", folder)
    assert make().layers[0].out_features == 6
    assert make(width=2).layers[0].out_features == 2
    assert {n: p.default for n, p in inspect.signature(make).parameters.items()} == {"width": 6, "depth": 1}


def test_a_function_of_an_installed_package_makes_a_network() -> None:
    assert load_model("torch.nn:Linear?in_features=3", out_features=2).weight.shape == (2, 3)


def test_a_ready_network_is_copied(folder: Path) -> None:
    make = model_factory("mine.py:ready", folder)
    nn.init.zeros_(make().layers[0].weight)
    assert make().layers[0].weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("mine.py:Net?widht=3", "unknown argument 'widht'.*did you mean 'width'"),
        ("mine.py:number", "mine.py:number is int, expected a network"),
        ("mine.py:three", "mine.py:three makes int, expected a torch.nn.Module"),
        ("mine.py:broken", r"mine.py:broken raises KeyError: 'size' \(mine.py"),
        ("mine.py:Net?weights=no.pt", "there is no file or folder 'no.pt'"),
        ("no.pt2?trust=true", "there is no file or folder 'no.pt2'"),
        ("mine.py:ready?width=3", "unknown argument 'width'"),
    ],
)
def test_what_makes_no_network_is_named(folder: Path, reference: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_model(reference, folder)


def test_the_message_of_a_wrong_call_names_the_argument(folder: Path) -> None:
    with pytest.raises(UnresolvedReference, match="unknown argument 'deepth'.*'depth'"):
        load_model("mine.py:Net", folder, deepth=2)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_fill_the_baseline_only(folder: Path, suffix: str) -> None:
    stored = {
        f"module.{name}": torch.ones_like(v)
        for name, v in load_model("mine.py:Net", folder).state_dict().items()
    }
    path = folder / f"net.{suffix}"
    save_file(stored, path) if suffix == "safetensors" else torch.save(
        {"state_dict": stored, "epoch": 3}, path
    )
    make = model_factory(f"mine.py:Net?weights=net.{suffix}", folder)
    assert make().layers[0].weight.eq(1).all()
    assert not make(width=4).layers[0].weight.eq(1).all()


def test_weights_that_do_not_fit_are_named_in_one_sentence(folder: Path) -> None:
    save_file({"layers.0.weight": torch.zeros(2, 2), "head.bias": torch.zeros(1)}, folder / "net.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model("mine.py:Net?weights=net.safetensors", folder)
    assert str(caught.value) == (
        "weights: they do not fit mine.py:Net: missing layers.0.bias; unexpected head.bias; "
        "layers.0.weight has shape (2, 2) instead of (4, 3)"
    )


def test_tied_weights_may_be_stored_once(folder: Path) -> None:
    (folder / "tied.py").write_text(
        "from torch import nn\n"
        "class Tied(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)\n"
        "        self.b.weight = self.a.weight\n"
    )
    save_file({"a.weight": torch.ones(4, 3)}, folder / "tied.safetensors")
    model = load_model("tied.py:Tied?weights=tied.safetensors", folder)
    assert model.b.weight.eq(1).all() and model.a.weight is model.b.weight


def test_weights_with_code_in_them_are_not_loaded(folder: Path) -> None:
    torch.save(nn.Linear(2, 2), folder / "whole.pt")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        load_model("mine.py:Net?weights=whole.pt", folder)


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_is_an_ordinary_network(folder: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    dynamic = ({0: torch.export.Dim.AUTO},)
    torch.export.save(
        torch.export.export(network, (torch.rand(2, 3),), dynamic_shapes=dynamic), folder / "net.pt2"
    )
    with pytest.raises(UnresolvedReference, match=r"may run code from the file.*write 'net.pt2\?trust=true'"):
        load_model("net.pt2", folder)
    model, x = load_model("net.pt2?trust=true", folder), torch.rand(5, 3)
    assert torch.allclose(model.train().eval()(x), network(x))
    assert set(model.state_dict()) == set(network.state_dict())


def test_a_task_is_made_of_references(folder: Path) -> None:
    task = load_task("classification", folder, {"model": "mine.py:Net?width=4", "data": "mine.py:data"})
    assert task.model(width=8).layers[0].out_features == 8
    assert len(task.data().train) == 24


@needs_transformers
def test_the_fields_of_a_configuration_are_arguments() -> None:
    make = model_factory(f"transformers:BertForSequenceClassification?{TINY}&num_labels=7")
    assert make().classifier.weight.shape == (7, 16)
    assert len(make(num_hidden_layers=2).bert.encoder.layer) == 2
    assert inspect.signature(make).parameters["num_hidden_layers"].default == 1


@needs_transformers
def test_a_local_folder_brings_its_weights(folder: Path) -> None:
    saved = load_model(f"transformers:BertForSequenceClassification?{TINY}")
    saved.save_pretrained(folder / "bert")
    make = model_factory("transformers:AutoModelForSequenceClassification?config=bert", folder)
    assert torch.equal(make().classifier.weight, saved.classifier.weight)
    assert make(intermediate_size=4).bert.encoder.layer[0].intermediate.dense.out_features == 4


@needs_transformers
def test_a_configuration_alone_makes_a_fresh_network(folder: Path) -> None:
    fields = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}
    (folder / "gpt.json").write_text(json.dumps(fields))
    model = load_model("transformers:AutoModelForCausalLM?config=gpt.json&n_layer=2", folder)
    assert len(model.transformer.h) == 2


@needs_transformers
@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("transformers:AutoModel?config=bert-base-uncased", "run 'hf download bert-base-uncased --local-dir"),
        ("transformers:BertModel?hiden_size=8", "has no field 'hiden_size'; did you mean 'hidden_size'"),
        ("transformers:AutoModel?model_type=brt", "model_type: got 'brt'.*did you mean 'bert'"),
        ("transformers:AutoModel", "say which kind of model"),
        ("transformers:BertTokenizer", "is no model class"),
    ],
)
def test_what_transformers_cannot_make_is_named(folder: Path, reference: str, said: str) -> None:
    with pytest.raises(UnresolvedReference, match=said):
        load_model(reference, folder)


def test_a_keras_network_on_another_backend_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "class Sequential: pass\nSequential.__module__ = 'keras.src.models'\ndef net(): return Sequential()\n"
    )
    with pytest.raises(ModelError, match="makes Sequential, expected a .*; set KERAS_BACKEND=torch"):
        load_model("net.py:net", tmp_path)
