"""Pruned models of transformers save with `save_pretrained` and load again with their own class."""

from __future__ import annotations

import pytest
import torch

from autoprune.errors import ModelError
from autoprune.structure import Observed, analyse
from autoprune.structure.pretrained import follow_config, is_pretrained

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
}


def tokens():
    ids = torch.randint(0, 50, (1, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)).eval()


def llama():
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, use_cache=False)
    return transformers.LlamaForCausalLM(config).eval()


def pruned(model, keep):
    """The model without the first half of the units of each group that `keep` lets go."""
    free = [group for group in analyse(model, tokens()).free if keep(group)]
    Observed(model, tokens()).cut({group.name: list(range(group.units // 2)) for group in free})
    return model


@pytest.mark.parametrize(
    ("make", "keep", "changed"),
    [
        (bert, lambda g: "intermediate" in g.name, {"intermediate_size": (64, 32)}),
        (
            llama,
            lambda g: g.kind != "head_dim",
            {"intermediate_size": (64, 32), "num_attention_heads": (4, 1), "num_key_value_heads": (2, 1)},
        ),
    ],
)
def test_it_saves_and_loads_again(make, keep, changed, tmp_path):
    model = pruned(make(), keep)
    assert follow_config(model, tokens()) == changed
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**tokens())[0], model(**tokens())[0])


def test_the_modules_own_numbers_follow():
    model = pruned(llama(), lambda g: g.kind == "heads" and g.name.endswith("heads"))
    follow_config(model, tokens())
    assert model.model.layers[0].self_attn.num_key_value_groups == 2
    assert model.config.num_key_value_heads == 1


def test_layers_that_share_a_number_must_be_cut_alike():
    model = pruned(bert(), lambda g: "layer.0.intermediate" in g.name)
    with pytest.raises(ModelError, match="cannot describe the pruned model: .*tie the layers"):
        follow_config(model, tokens())
    assert model.config.intermediate_size == 64


def test_what_the_class_derives_from_a_number_must_stay():
    model = pruned(llama(), lambda g: g.kind == "head_dim")
    with pytest.raises(ModelError, match="computes something else"):
        follow_config(model, tokens())


def test_other_networks_have_no_configuration():
    assert is_pretrained(bert()) and not is_pretrained(torch.nn.Linear(2, 2))
