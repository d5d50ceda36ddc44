"""Each quantizer on networks of different kinds: what was learned is what is saved, deployed, exported and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantizable_networks import Residual
from torch import nn

from autoprune.candidate import restore, save_checkpoint
from autoprune.compress.quantize import CORRECTION, GRANULARITY, QUANTIZER, Quantize
from autoprune.compress.technique import Context
from autoprune.deployed import CodebookLayer, QuantizedLayer, layer_kind
from autoprune.deployed.quantizers import STEP
from autoprune.export.artifact import Contents, write_artifact
from autoprune.space import Choices
from autoprune.stored.reading import load
from autoprune.targets.interface import relative_error
from autoprune.targets.onnx_graph import to_onnx
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.task import ArraySplit, ClassificationTask, Data, example_inputs
from autoprune.tensors import Inputs, call, rows
from autoprune.train import TrainSettings, train

EXAMPLES = 32


class Encoder(nn.Module):
    """A transformer encoder on token numbers, by name, of which some are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.embed(ids), src_key_padding_mask=mask == 0)
        return self.head((x * mask[..., None]).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recur, self.up, self.head = (
            nn.LSTM(8, 16, batch_first=True),
            nn.Linear(16, 32),
            nn.Linear(32, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.up(self.recur(x)[0][:, -1])))


def images(draw: np.random.Generator) -> Any:
    return draw.normal(size=(EXAMPLES, 3, 16, 16)).astype(np.float32)


def tokens(draw: np.random.Generator) -> Any:
    mask = (np.arange(6) < draw.integers(3, 7, (EXAMPLES, 1))).astype(np.float32)
    return {"ids": draw.integers(0, 20, (EXAMPLES, 6)), "mask": mask}


def sequences(draw: np.random.Generator) -> Any:
    return draw.normal(size=(EXAMPLES, 5, 8)).astype(np.float32)


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[np.random.Generator], Any]]] = {
    "residual": (Residual, images),
    "encoder": (Encoder, tokens),
    "recurrent": (Recurrent, sequences),
}


class Trial:
    """A candidate in the steps of the search, without the search."""

    def __init__(self, kind: str, quantizer: str, granularity: str = "per_channel", bits: int = 4) -> None:
        factory, inputs = KINDS[kind]
        draw = np.random.default_rng(0)
        split = ArraySplit(inputs(draw), draw.integers(0, 10, EXAMPLES))
        self.data = Data(split, split, split)
        self.task = ClassificationTask(factory, self.data)
        torch.manual_seed(0)
        self.model, self.technique = factory().eval(), Quantize()
        layers = [name for name, module in self.model.named_modules() if layer_kind(module)]
        widths = {
            f"quantize.{n}.{kind}_bits": b
            for n in layers
            for kind, b in (("weight", bits), ("activation", 8))
        }
        self.point = {**widths, QUANTIZER: quantizer, GRANULARITY: granularity}
        self.context = self.fresh()
        self.context.structure["architecture"] = {}
        (batch,) = split.batches(EXAMPLES)
        self.inputs: Inputs = batch.inputs

    def fresh(self) -> Context:
        return Context(self.task, self.data, OnnxRuntime(), self.task.model())

    def stretch(self, schedule: Callable[[], Any] = lambda: None, epochs: float = 2) -> None:
        trained = self.technique.wrap(self.model, Choices(self.point), self.context)
        settings = TrainSettings(batch_size=16, learning_rate=0.02)

        def step(done: int, total: int) -> None:
            schedule()
            self.technique.on_step(self.model, done, total)

        train(trained, self.task, self.data.train, epochs=epochs, settings=settings, on_step=step)

    def deployed(self) -> nn.Module:
        return self.technique.finalize(self.model, Choices(self.point), self.context).eval()

    def outputs(self, model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = call(model, self.inputs)
        return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantizer", ["ptq", "qat", "lsq", "codebook"])
def test_what_was_trained_is_what_is_restored_deployed_exported_and_loaded(
    kind: str, quantizer: str, tmp_path: Path
) -> None:
    trial = Trial(kind, quantizer)
    trial.stretch()
    checkpoint = save_checkpoint(trial.model, trial.context.structure, 1)
    deployed = trial.deployed()
    expected = trial.outputs(deployed)

    again = trial.fresh()
    model, rung = restore(checkpoint, [trial.technique], again)
    found = trial.technique.finalize(model, Choices(trial.point), again).eval()
    assert rung == 1
    assert torch.equal(trial.outputs(found), expected)
    assert again.structure["quantize"] == trial.context.structure["quantize"]

    example = example_inputs(trial.data)
    exported = to_onnx(deployed, example)
    computed = exported.session.run(None, {n: t.numpy() for n, t in named(trial.inputs).items()})[0]
    assert relative_error(expected.numpy(), computed) <= 0.02

    contents = Contents(deployed, example, {}, trial.context.structure, {}, {})
    loaded = load(write_artifact(tmp_path / "artifact", contents))
    assert torch.equal(trial.outputs(loaded), expected)


def named(inputs: Inputs) -> dict[str, torch.Tensor]:
    return dict(inputs) if isinstance(inputs, dict) else {"input": inputs}  # type: ignore[dict-item]


@pytest.mark.parametrize("quantizer", ["lsq", "codebook"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_goes_on_where_the_one_before_ended(kind: str, quantizer: str) -> None:
    trial = Trial(kind, quantizer)
    trial.stretch()
    checkpoint = save_checkpoint(trial.model, trial.context.structure, 0)
    again = Trial(kind, quantizer)
    again.model, _ = restore(checkpoint, [again.technique], again.context)
    for one in (trial, again):
        one.stretch()
    for name, tensor in trial.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert torch.equal(trial.outputs(trial.deployed()), again.outputs(again.deployed()))


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("quantizer", ["qat", "lsq"])
def test_what_training_computes_is_what_is_deployed(quantizer: str, granularity: str) -> None:
    trial = Trial("residual", quantizer, granularity)
    trial.point = {
        name: 32 if name.endswith("activation_bits") else value for name, value in trial.point.items()
    }
    trial.stretch()
    wrapped = trial.technique.wrap(trial.model, Choices(trial.point), trial.context).eval()
    seen = trial.outputs(wrapped)
    assert torch.allclose(seen, trial.outputs(trial.deployed()), atol=1e-4)
    assert (seen - trial.outputs(trial.model)).norm() > 1e-3


def test_learned_steps_are_the_scales_of_the_deployed_network() -> None:
    trial = Trial("recurrent", "lsq")
    trial.stretch()
    deployed = trial.deployed()
    for name in ("up", "head"):
        layer = deployed.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        assert torch.equal(layer.scale, trial.model.get_submodule(name).get_buffer(STEP))
    learned = trial.context.structure["quantize"]["learned"]["activations"]
    assert len(learned) == 2
    for path, grid in learned.items():
        assert deployed.get_submodule(path).get_buffer("grid").tolist() == grid
    assert "calibration" not in trial.context.structure["quantize"]


def test_without_training_learned_steps_are_those_of_rounding_afterwards() -> None:
    one, other = Trial("residual", "lsq"), Trial("residual", "ptq")
    assert torch.equal(one.outputs(one.deployed()), other.outputs(other.deployed()))


def test_a_codebook_keeps_its_few_values_and_its_zeros_through_training() -> None:
    trial = Trial("residual", "codebook", bits=2)
    weight = trial.model.get_submodule("down.0").get_parameter("weight")
    with torch.no_grad():
        weight.masked_fill_(torch.rand_like(weight) < 0.5, 0.0)
    is_zero = weight == 0
    trial.stretch(lambda: weight.data.masked_fill_(is_zero, 0.0))
    assert len(weight.unique()) == 4
    assert torch.equal(weight == 0, is_zero)
    layer = trial.deployed().get_submodule("down.0")
    assert isinstance(layer, CodebookLayer)
    assert torch.equal(layer.codes == 0, is_zero)
    assert torch.equal(layer.centroids[layer.codes.int()], weight)


def test_one_scale_for_the_whole_weight_is_one_number() -> None:
    trial = Trial("residual", "ptq", "per_tensor", bits=8)
    layers = [module for module in trial.deployed().modules() if isinstance(module, QuantizedLayer)]
    assert layers and all(layer.scale.shape == (1,) for layer in layers)


def test_bias_correction_is_read_where_weights_were_not_trained_to_round() -> None:
    for quantizer, is_read in (("ptq", True), ("qat", False), ("lsq", False), ("codebook", True)):
        trial = Trial("recurrent", quantizer)
        choices = Choices({**trial.point, CORRECTION: True})
        trial.technique.finalize(trial.model, choices, trial.context)
        assert (CORRECTION in choices.read) == is_read
        assert trial.context.structure["quantize"].get("bias_correction", False) == is_read


def test_one_batch_is_enough_for_a_fit_of_the_users_own_to_learn_steps() -> None:
    """A `fit` gets the wrapped network and may step whatever parameters it finds."""
    trial = Trial("recurrent", "lsq")
    wrapped = trial.technique.wrap(trial.model, Choices(trial.point), trial.context).train()
    before = trial.model.get_submodule("up").get_buffer(STEP).clone()
    optimizer = torch.optim.Adam(wrapped.parameters(), 0.01)
    call(wrapped, rows(trial.inputs, slice(0, 8))).square().mean().backward()
    optimizer.step()
    trial.technique.on_step(trial.model, 1, 1)
    assert not torch.equal(trial.model.get_submodule("up").get_buffer(STEP), before)
    assert len(trial.context.structure["quantize"]["learned"]["activations"]) == 2
