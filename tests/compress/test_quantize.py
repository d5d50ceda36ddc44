"""The technique: its choices, what it reads, calibration, and training that knows of rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quantizable_networks import NETWORKS, network
from torch import nn

from autoprune.compress.calibrate import best_range
from autoprune.compress.fake_quantize import FakeQuantizedLayer, round_weight, wrap_for_training
from autoprune.compress.quantize import CALIBRATION, CORRECTION, GRANULARITY, QUANTIZER, Quantize
from autoprune.compress.technique import Context
from autoprune.deployed import ActivationQuantizer, QuantizedLayer, deploy, layer_kind, weight_codes
from autoprune.deployed.quantizers import FIXED_POINT
from autoprune.errors import ModelError, SpecError, TargetError
from autoprune.space import Choices, Options
from autoprune.targets.fpga import Fpga
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.task import ArraySplit, ClassificationTask, Data

EVERY = Options((2, 3, 4, 5, 6, 7, 8, 16, 32), neutral=32)


def context_of(model: nn.Module, inputs: torch.Tensor) -> Context:
    split = ArraySplit(inputs.numpy(), torch.arange(len(inputs)).remainder(10).numpy())
    data = Data(split, split, split)
    return Context(ClassificationTask(lambda: model, data), data, OnnxRuntime(), model)


def point(model: nn.Module, weight_bits: int, activation_bits: int, quantizer: str = "ptq") -> Choices:
    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    layers = [name for name, module in model.named_modules() if layer_kind(module)]
    return Choices(
        {QUANTIZER: quantizer, **{f"quantize.{n}.{field}": b for n in layers for field, b in bits.items()}}
    )


def outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(inputs)
    return found


def test_each_layer_has_two_choices() -> None:
    model, inputs = network("residual")
    found = Quantize().choices(model, inputs[:1], OnnxRuntime())
    assert len(found) == 2 * 6 + 4
    assert found["quantize.head.weight_bits"] == Options((8, 32), neutral=32)
    assert found[QUANTIZER] == Options(("ptq", "qat"), neutral="ptq")


def test_bits_that_the_target_cannot_run_are_left_out() -> None:
    model, inputs = network("mlp")
    found = Quantize(activation_bits=EVERY).choices(model, inputs[:1], OnnxRuntime())
    assert found["quantize.0.activation_bits"] == Options((8, 32), neutral=32)
    with pytest.raises(
        TargetError, match=r"activation_bits: the target can run none of 4, 16; it takes 8, 32"
    ):
        Quantize(activation_bits=Options((4, 16), neutral=32)).choices(model, inputs[:1], OnnxRuntime())


def test_layers_can_be_included_and_excluded() -> None:
    model, inputs = network("residual")
    technique = Quantize(include=("one.*", "two.*"), exclude=("two.*",))
    assert set(technique.choices(model, inputs[:1], OnnxRuntime())) == {
        "quantize.one.0.weight_bits",
        "quantize.one.0.activation_bits",
        QUANTIZER,
        CALIBRATION,
        GRANULARITY,
        CORRECTION,
    }
    reasons = {layer["name"]: layer["reason"] for layer in technique.describe(model, inputs[:1])["layers"]}
    assert (reasons["one.0"], reasons["two.0"], reasons["head"]) == ("", "excluded", "not included")


def test_layers_with_a_forward_of_their_own_stay_float() -> None:
    class Odd(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input.abs())

    model = nn.Sequential(Odd(4, 4), nn.Conv2d(1, 1, 3, padding_mode="reflect"), nn.MultiheadAttention(4, 2))
    assert Quantize().choices(model, None, OnnxRuntime()) == {}
    reasons = [layer["reason"] for layer in Quantize().describe(model, None)["layers"]]
    assert len(reasons) == 4 and all(reasons)


def test_only_what_matters_is_read() -> None:
    model, inputs = network("mlp")
    choices = point(model, 32, 8, "qat")
    technique = Quantize()
    assert technique.bits(model, choices) == {}
    technique.wrap(model, choices, context_of(model, inputs))
    assert set(choices.read) == {f"quantize.{name}.weight_bits" for name in ("0", "4", "6")}


def test_neutral_choices_leave_the_network_alone() -> None:
    model, inputs = network("residual")
    deployed = Quantize().finalize(model, point(model, 32, 32), context_of(model, inputs))
    assert torch.equal(outputs(deployed, inputs), outputs(model, inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_eight_bits_stay_close_and_the_network_itself_stays_as_it_was(name: str) -> None:
    model, inputs = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    context = context_of(model, inputs)
    deployed = Quantize().finalize(model, point(model, 8, 8), context)
    expected = outputs(model, inputs)
    assert (outputs(deployed, inputs) - expected).norm() <= 0.03 * expected.norm()
    assert context.structure["quantize"]["fallback"] == (name == "untraceable")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_fewer_bits_are_further_off() -> None:
    model, inputs = network("residual")
    expected = outputs(model, inputs)
    errors = [
        float(
            (
                outputs(Quantize().finalize(model, point(model, bits, 8), context_of(model, inputs)), inputs)
                - expected
            ).norm()
        )
        for bits in (8, 6, 4, 2)
    ]
    assert errors == sorted(errors)


def test_finalizing_is_deterministic_and_recorded() -> None:
    model, inputs = network("concat")
    first, second = context_of(model, inputs), context_of(model, inputs)
    one = Quantize().finalize(model, point(model, 4, 8), first)
    other = Quantize().finalize(model, point(model, 4, 8), second)
    assert torch.equal(outputs(one, inputs), outputs(other, inputs))
    assert first.structure == second.structure
    assert first.structure["quantize"]["layers"]["head"] == {"weight_bits": 4, "activation_bits": 8}


def test_codes_are_symmetric_and_within_their_bits() -> None:
    model, inputs = network("residual")
    deployed = Quantize(weight_bits=EVERY).finalize(model, point(model, 3, 8), context_of(model, inputs))
    codes = weight_codes(deployed)
    assert set(codes) == {name for name, module in model.named_modules() if layer_kind(module)}
    for code in codes.values():
        assert (code.bits, code.codes.abs().max() <= 3) == (3, True)


def test_a_channel_of_zeros_with_a_bias_keeps_its_bias() -> None:
    model, inputs = network("mlp")
    with torch.no_grad():
        model[4].weight[3] = 0.0
        model[4].bias[3] = 5.0
    deployed = Quantize().finalize(model, point(model, 8, 8), context_of(model, inputs))
    layer = deployed.get_submodule("4")
    assert isinstance(layer, QuantizedLayer)
    assert layer.bias is not None
    assert float(layer.bias[3]) == pytest.approx(5.0, rel=1e-4)


def test_eight_bits_cover_everything_and_two_bits_cut_the_tail() -> None:
    values = torch.randn(4096, generator=torch.Generator().manual_seed(0)).relu()
    top = float(values.max())
    assert best_range(values, 8) == (0.0, pytest.approx(top, rel=0.2))
    assert best_range(values, 2)[1] < 0.8 * top


@pytest.mark.parametrize("name", NETWORKS)
def test_quantization_aware_training_computes_what_is_deployed(name: str) -> None:
    model, inputs = network(name)
    context = context_of(model, inputs)
    wrapped = Quantize().wrap(model, point(model, 8, 8, "qat"), context)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for module in wrapped.modules():
        module.training = type(module).__name__ == "MovingQuantizer"
    with torch.no_grad():
        seen = wrapped(inputs)
    assert (seen - outputs(model, inputs)).norm() <= 0.05 * seen.norm()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("bits", [4, 12, 16])
def test_on_a_fixed_point_target_every_scale_is_a_power_of_two(bits: int) -> None:
    model, inputs = network("residual")
    context, every = context_of(model, inputs), Options(tuple(range(2, 17)), neutral=16)
    context.target = Fpga(reuse=1)
    technique = Quantize(every, every)
    assert technique.choices(model, inputs[:1], context.target)[GRANULARITY] == Options(
        (FIXED_POINT,), FIXED_POINT
    )
    choices = Choices({**point(model, bits, bits).values_unread, GRANULARITY: FIXED_POINT})
    deployed = technique.finalize(model, choices, context)
    scales = [
        float(m.scale) for m in deployed.modules() if isinstance(m, QuantizedLayer | ActivationQuantizer)
    ]
    assert len(scales) > 6 and all(math.frexp(scale)[0] == 0.5 for scale in scales)
    error = (outputs(deployed, inputs) - outputs(model, inputs)).norm() / outputs(model, inputs).norm()
    assert error <= {4: 0.5, 12: 2e-3, 16: 2e-4}[bits]


def test_quantizers_that_do_not_keep_to_fixed_point_are_refused_there() -> None:
    model, inputs = network("mlp")
    with pytest.raises(TargetError, match=r"space\.quantize\.quantizer: .* lsq cannot keep to"):
        Quantize(quantizer=Options(("ptq", "lsq"), "ptq")).choices(model, inputs[:1], Fpga())


@pytest.mark.parametrize("name", ["residual", "untraceable"])
def test_quantization_aware_training_recovers_what_few_bits_lose(name: str) -> None:
    model, inputs = network(name)
    targets = outputs(model, inputs).argmax(1)
    technique, context = Quantize(), context_of(model, inputs)
    choices = point(model, 2, 8, "qat")

    def lost() -> float:
        return float(F.cross_entropy(outputs(technique.finalize(model, choices, context), inputs), targets))

    before = lost()
    wrapped = technique.wrap(model, choices, context).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(wrapped(inputs), targets).backward()
        optimizer.step()
    assert lost() < 0.5 * before


def test_post_training_quantization_trains_the_network_itself() -> None:
    model, inputs = network("residual")
    assert Quantize().wrap(model, point(model, 8, 8), context_of(model, inputs)) is model


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 32])
def test_gradients_pass_straight_through_rounding(bits: int) -> None:
    weight = torch.randn(4, 8, requires_grad=True)
    round_weight(weight, (bits, 32), 0).sum().backward()
    assert weight.grad is not None
    # With few bits the values beyond the clipped range get none.
    assert float((weight.grad == 1).float().mean()) >= 0.5


def test_folding_and_rounding_commute() -> None:
    model, inputs = network("residual")
    wrapped = wrap_for_training(model, {"stem.0": (4, 32)}, inputs[:1])
    fake: Any = wrapped.get_submodule("stem.0")
    assert isinstance(fake, FakeQuantizedLayer)
    deployed = Quantize().finalize(
        model, Choices({"quantize.stem.0.weight_bits": 4}), context_of(model, inputs)
    )
    assert torch.allclose(outputs(wrapped, inputs), outputs(deployed, inputs), atol=1e-4)


def test_fixed_layers_are_no_choice_but_always_at_their_bits() -> None:
    model, inputs = network("residual")
    technique = Quantize(fixed={"head": 4, "one.*": 32}, weight_bits=EVERY, exclude=("head",))
    found = technique.choices(model, inputs[:1], OnnxRuntime())
    assert not any(name.startswith(("quantize.head.", "quantize.one.")) for name in found)
    assert technique.bits(model, Choices({})) == {"head": (4, 8)}


@pytest.mark.parametrize(("bits", "inputs_have"), [(6, 8), (12, 16), (16, 16)])
def test_fixed_layers_of_a_circuit_read_fixed_point_numbers(bits: int, inputs_have: int) -> None:
    model, inputs = network("residual")
    technique = Quantize(fixed={"head": bits})
    space = technique.choices(model, inputs[:1], Fpga(reuse=1))
    assert technique.bits(model, Choices({GRANULARITY: space[GRANULARITY].neutral})) == {
        "head": (bits, inputs_have)
    }


@pytest.mark.parametrize(
    ("fixed", "error", "match"),
    [
        ({"haed": 8}, ModelError, "no layer that can be quantized is called 'haed'.*head"),
        ({"head": 16}, TargetError, None),
    ],
)
def test_fixed_bits_that_cannot_be_are_refused(fixed: dict[str, int], error: type, match: str | None) -> None:
    model, inputs = network("residual")

    class Eight(OnnxRuntime):
        weight_bits = (8, 32)

    with pytest.raises(error, match=match or "cannot run 16 bits; it takes 8, 32"):
        Quantize(fixed=fixed).choices(model, inputs[:1], Eight())


@pytest.mark.parametrize("quantizer", ["lsq", "codebook"])
def test_a_quantizer_without_bits_for_it_is_refused(quantizer: str) -> None:
    model, inputs = network("mlp")
    wide = Options((16, 32), neutral=32)
    technique = Quantize(weight_bits=wide, quantizer=Options(("ptq", quantizer), neutral="ptq"))
    with pytest.raises(SpecError, match=f"got '{quantizer}', expected weights of 2 to 8 bits.*16, 32"):
        technique.choices(model, inputs[:1], OnnxRuntime())
    fixed = Quantize(weight_bits=wide, quantizer=technique.quantizer, fixed={"0": 4})
    assert fixed.choices(model, inputs[:1], OnnxRuntime())


def test_a_quantizer_without_a_layer_for_it_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4))
    only = Options(("lsq", "codebook"), neutral="lsq")
    with pytest.raises(ModelError, match="no layer for lsq and codebook: it looks rows up"):
        Quantize(quantizer=only).choices(model, None, OnnxRuntime())
    assert (
        Quantize(quantizer=Options(("ptq", "lsq"), neutral="ptq")).choices(model, None, OnnxRuntime()) == {}
    )


def test_codebooks_say_that_they_multiply_in_floating_point() -> None:
    model, inputs = network("mlp")
    shared = Options(("codebook",), neutral="codebook")
    assert "floating point" in Quantize(quantizer=shared).describe(model, inputs[:1])["notes"][0]
    floats = Options((32,), neutral=32)
    assert Quantize(quantizer=shared, activation_bits=floats).describe(model, inputs[:1])["notes"] == []


def test_forms_and_calibration_are_read_where_they_matter() -> None:
    model, inputs = network("mlp")
    everything = {CALIBRATION: "entropy", GRANULARITY: "per_tensor", CORRECTION: True}
    for weight_bits, activation_bits, quantizer, read in (
        (8, 8, "ptq", {CALIBRATION, GRANULARITY, CORRECTION}),
        (8, 32, "qat", {GRANULARITY}),
        (16, 32, "qat", set()),
        (4, 32, "codebook", {CORRECTION}),
    ):
        widths = point(model, weight_bits, activation_bits, quantizer).values_unread
        choices = Choices({**widths, **everything})
        Quantize().finalize(model, choices, context_of(model, inputs))
        assert everything.keys() & choices.read.keys() == read


def test_every_layer_that_stays_float_says_why() -> None:
    modules = {
        "look": nn.Embedding(3, 4),
        "recur": nn.GRU(4, 4),
        "norm": nn.LayerNorm(4),
        "attend": nn.MultiheadAttention(4, 2),
        "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        "head": nn.Linear(4, 2),
    }
    reasons = {r["name"]: r["reason"] for r in Quantize().describe(nn.ModuleDict(modules), None)["layers"]}
    assert reasons["head"] == ""
    for name, word in [
        ("look", "rows"),
        ("recur", "recurrent"),
        ("norm", "normalises"),
        ("attend", "functions"),
    ]:
        assert word in reasons[name]
    assert "computed" in reasons["normed"] and "past the layer" in reasons["attend.out_proj"]


@pytest.mark.parametrize("quantizer", ["ptq", "qat"])
def test_transformers_are_quantized_layer_by_layer(quantizer: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, use_cache=False, **sizes)).eval()
    example = {"input_ids": torch.tensor([[1, 2, 3]])}
    bits = Quantize().bits(model, point(model, 8, 8))
    assert {"transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc", "lm_head"} <= set(bits)
    made = deploy(model, bits, example) if quantizer == "ptq" else wrap_for_training(model, bits, example)
    with torch.no_grad():
        expected, found = model(**example).logits, made(**example).logits
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert model.lm_head.weight is model.transformer.wte.weight
