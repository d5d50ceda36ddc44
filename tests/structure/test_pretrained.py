"""Pruned models of transformers save with `save_pretrained` and load again with their own class."""

from __future__ import annotations

import pytest
import torch

from autoprune.compress.depth import drop_blocks, find_blocks
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


def gpt():
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, use_cache=False)).eval()


def deep(kind, config, **more):
    made = getattr(transformers, config)(**{**SIZES, "num_hidden_layers": 4}, **more)
    return getattr(transformers, kind)(made).eval()


def qwen():
    """Its configuration lists a kind of attention for each layer, and layers of two kinds."""
    more = {"num_key_value_heads": 2, "use_cache": False, "use_sliding_window": True, "max_window_layers": 2}
    return deep("Qwen2ForCausalLM", "Qwen2Config", **more)


def without(model, *names):
    """The model with blocks dropped as `space.depth` drops them, and what they were."""
    blocks = {block.name: block for block in find_blocks(model, tokens())}
    dropped = {name: {"given": blocks[name].given, "returned": blocks[name].returned} for name in names}
    return drop_blocks(model, dropped), dropped


@pytest.mark.parametrize(
    ("make", "row", "number"),
    [
        (
            lambda: deep("BertForSequenceClassification", "BertConfig"),
            "bert.encoder.layer",
            "num_hidden_layers",
        ),
        (gpt, "transformer.h", "n_layer"),
        (qwen, "model.layers", "num_hidden_layers"),
    ],
)
def test_without_some_blocks_it_saves_and_loads_again(make, row, number, tmp_path):
    model, dropped = without(make(), f"{row}.0", f"{row}.2")
    with torch.no_grad():
        expected = model(**tokens())[0]
    assert follow_config(model, tokens(), dropped) == {number: (4, 2)}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert [name for name, _ in again.get_submodule(row).named_children()] == ["0", "1"]
    with torch.no_grad():
        torch.testing.assert_close(again(**tokens())[0], expected)
        torch.testing.assert_close(model(**tokens())[0], expected)


def test_blocks_and_units_go_together(tmp_path):
    model, dropped = without(deep("BertForSequenceClassification", "BertConfig"), "bert.encoder.layer.1")
    pruned(model, lambda g: "intermediate" in g.name)
    changed = follow_config(model, tokens(), dropped)
    assert changed == {"num_hidden_layers": (4, 3), "intermediate_size": (64, 32)}
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = type(model).from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(**tokens())[0], model(**tokens())[0])


def test_a_generating_model_still_generates_with_its_cache(tmp_path):
    model, dropped = without(gpt(), "transformer.h.1")
    follow_config(model, tokens(), dropped)
    model.save_pretrained(tmp_path)
    again, ids = type(model).from_pretrained(tmp_path).eval(), tokens()["input_ids"]
    texts = [again.generate(ids, max_new_tokens=4, do_sample=False, use_cache=use) for use in (True, False)]
    assert torch.equal(*texts)


def test_a_configuration_that_counts_no_blocks_stays_as_it_was():
    sizes = {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [2, 3],
        "num_heads": [2, 2],
        "window_size": 4,
    }
    model = transformers.SwinForImageClassification(transformers.SwinConfig(**sizes)).eval()
    with pytest.raises(ModelError, match="no number in it says how many blocks"):
        follow_config(model, torch.randn(1, 3, 32, 32), ["swin.encoder.layers.1.blocks.1"])
    assert model.config.depths == [2, 3]


def test_other_networks_have_no_configuration():
    assert is_pretrained(bert()) and not is_pretrained(torch.nn.Linear(2, 2))
