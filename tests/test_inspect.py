"""What can be searched about a network, and one trial of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from inspected_networks import ByValue, FusedAttention, Noisy, TwoInputs, example_inputs
from torch import nn
from typer.testing import CliRunner

from autoprune.cli import app
from autoprune.errors import BadInput
from autoprune.inspect import find, inspect, is_network, parsed

HERE = Path(__file__).parent
FILE = str(HERE / "inspected_networks.py")


def two_inputs():
    return torch.randint(0, 20, (1, 5)), torch.randn(1, 4)


def test_a_size_in_the_code_is_changed_in_the_graph():
    found = inspect(FusedAttention(), example_inputs())
    assert found["way"] == "graph" and "sizes in its code" in found["ways"][0]["reason"]
    assert {"qkv.heads", "qkv.head_dim", "wide"} <= {group["name"] for group in found["groups"]}


def test_what_stays_whole_is_named_with_reason_and_line():
    frozen = {layer["layer"]: layer for layer in inspect(FusedAttention(), example_inputs())["frozen"]}
    assert frozen["head"]["reason"] == "its channels are outputs of the model"
    assert "norm" in frozen["embed"]["reason"]


def test_unproven_groups_are_listed_as_such():
    groups = {group["name"]: group for group in inspect(FusedAttention(), example_inputs())["groups"]}
    assert not groups["embed"]["proven"] and groups["wide"]["proven"]


@pytest.mark.parametrize(
    ("network", "example"),
    [(FusedAttention, example_inputs), (TwoInputs, two_inputs)],
    ids=lambda f: f.__name__,
)
def test_one_trial_goes_all_the_way(network, example):
    found = inspect(network(), example(), deep=True)
    steps = {step: found[step] for step in ("zeroed_check", "export", "int8", "parity", "load")}
    assert all(steps.values()), found["reasons"]
    assert found["pruned_params"] < 0.9 * found["params"]


def test_a_network_that_no_graph_holds_is_loaded_with_its_factory():
    found = inspect(ByValue(), example_inputs(), deep=True)
    assert found["load"] and "load(folder, model=...)" in found["warnings"][0]


def test_what_a_search_could_not_live_with_comes_first_and_alone():
    found = inspect(Noisy(), example_inputs())
    assert "groups" not in found and "different outputs" in found["problems"][0]


def test_the_network_stays_as_it_was():
    network = nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))
    model = nn.Sequential(network, nn.ReLU(), nn.Linear(6, 2)).train()
    before = copy.deepcopy(model.state_dict())
    assert inspect(model, torch.randn(1, 8), deep=True)["folded"] == ["0.weight"]
    assert model.training and model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("shapes", "form"),
    [(["1x3x8x8"], torch.Tensor), (["1x4:int", "1x2"], tuple), (["ids=1x4:int", "mask=1x4:int"], dict)],
)
def test_shapes_become_inputs_in_the_form_that_they_are_given(shapes, form):
    assert isinstance(parsed(shapes), form)


@pytest.mark.parametrize("shapes", [["3y4"], ["1x0"], ["1x3:double"], ["a=1x3", "1x3"]])
def test_shapes_that_are_none_are_refused(shapes):
    with pytest.raises(BadInput, match="--input"):
        parsed(shapes)


def test_networks_are_told_from_other_objects():
    assert is_network(f"{FILE}:TwoInputs", HERE) and is_network(f"{FILE}:small_bert", HERE)
    assert not is_network(f"{FILE}:Result", HERE)


def test_inputs_come_from_the_file_or_from_the_network_itself():
    _, given = find(f"{FILE}:FusedAttention", [], HERE)
    assert given.shape == (1, 6, 8)
    _, named = find(
        "transformers:BertForSequenceClassification?hidden_size=32&num_attention_heads=4", [], HERE
    )
    assert "input_ids" in named


def test_a_network_without_inputs_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 2)\n")
    with pytest.raises(BadInput, match="add example_inputs"):
        find("net.py:net", [], tmp_path)


def test_the_command_prints_json_and_has_an_exit_code():
    runner = CliRunner()
    good = runner.invoke(app, ["check", f"{FILE}:FusedAttention", "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)["quantizable"]
    bad = runner.invoke(app, ["check", f"{FILE}:Noisy"])
    assert bad.exit_code == 2 and "different outputs" in " ".join(bad.stdout.split())


def test_the_command_prints_tables():
    shown = CliRunner().invoke(app, ["check", f"{FILE}:FusedAttention", "--deep"]).stdout
    assert "qkv.heads" in shown and "stays whole" in shown and "ok      parity" in shown
