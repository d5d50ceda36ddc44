"""The gate passes the measured candidate, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import quantized
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import deploy, layer_kind
from autoprune.errors import ParityError
from autoprune.export import parity
from autoprune.export.artifact import Contents, write_artifact
from autoprune.targets import load_target
from autoprune.targets.formats import FORMATS
from autoprune.task import ArraySplit, ClassificationTask, LanguageModelTask, RegressionTask

EXAMPLE = torch.zeros(1, 1, 8, 8)
INPUTS = np.random.default_rng(0).normal(size=(200, 1, 8, 8)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 3, 200)
SPLIT = ArraySplit(INPUTS, TARGETS)
CLASSES = ClassificationTask(quantized, lambda: SPLIT)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An artifact and the candidate that it was made from."""
    folder = tmp_path_factory.mktemp("artifact") / "out"
    model = quantized(8)
    runnable = load_target("onnxruntime", folder, {}).build(model, EXAMPLE)
    write_artifact(folder, Contents(model, EXAMPLE, runnable.files, {}, {}, {}))
    return folder, runnable


def test_the_artifact_of_the_measured_candidate_passes(exported: Any) -> None:
    folder, runnable = exported
    report = parity.check_parity(folder, runnable.run, CLASSES, SPLIT)
    assert report["examples"] == 200
    assert report["onnx"]["agreement"] == 100.0 and report["onnx"]["difference"]["accuracy"] == 0.0
    assert report["onnx"]["outputs"] == {"output": 0.0}
    assert report["module"]["agreement"] >= 99.5


def test_another_candidate_is_refused_with_figures(exported: Any) -> None:
    folder, runnable = exported
    with pytest.raises(
        ParityError, match=r"onnx file is not the model .* predictions agree on .* accuracy differs"
    ):
        parity.check_parity(folder, lambda inputs: runnable.run(inputs).roll(1, dims=1), CLASSES, SPLIT)


def test_without_classes_the_outputs_themselves_are_compared(exported: Any) -> None:
    folder, runnable = exported
    values = ArraySplit(INPUTS, np.zeros((200, 3), dtype=np.float32))
    task = RegressionTask(quantized, lambda: values)
    assert "agreement" not in parity.check_parity(folder, runnable.run, task, values)["onnx"]
    with pytest.raises(ParityError, match="outputs differ by"):
        parity.check_parity(folder, lambda inputs: runnable.run(inputs) * 1.1, task, values)


def test_one_changed_prediction_is_too_many_for_the_file_but_not_for_the_module() -> None:
    scores = torch.eye(3)[torch.from_numpy(TARGETS)]
    other = scores.clone()
    other[0] = other[0].roll(1)
    split = ArraySplit(np.arange(200), TARGETS)
    expected = {"accuracy": 100.0}
    found = parity.compare(lambda i: scores[i], lambda i: other[i], CLASSES, split, expected)
    assert found["agreement"] == 99.5 and found["difference"]["accuracy"] == pytest.approx(-0.5)
    parity._refuse("module", found, spare=1 / 200)
    with pytest.raises(ParityError, match=r"accuracy differs by 0\.50 points"):
        parity._refuse("ONNX file", found)


@pytest.mark.parametrize(
    "outputs", [torch.zeros(200, 4), torch.full((200, 3), torch.nan)], ids=["shape", "nan"]
)
def test_outputs_of_another_kind_are_refused(outputs: torch.Tensor) -> None:
    split = ArraySplit(np.arange(200), TARGETS)
    with pytest.raises(ParityError, match=r"gives .*output"):
        parity.compare(lambda i: torch.zeros(200, 3)[i], lambda i: outputs[i], CLASSES, split, {})


def test_a_file_that_does_not_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with (
        pytest.raises(ParityError, match="does not run in a process of its own: .*InvalidProtobuf"),
        parity.IsolatedModel(tmp_path, FORMATS["onnx"], lambda inputs: inputs) as isolated,
    ):
        isolated.run(EXAMPLE)


def test_a_file_that_takes_for_ever_is_refused(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, runnable = exported
    monkeypatch.setattr(parity, "TIME_LIMIT", 0.01)
    with pytest.raises(ParityError, match="did not finish"):
        parity.check_parity(folder, runnable.run, CLASSES, SPLIT)


def test_a_file_for_one_example_is_run_one_by_one(tmp_path: Path) -> None:
    class OneByOne(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(1, 6) * 2

    runnable = load_target("onnxruntime", tmp_path, {}).build(OneByOne().eval(), torch.zeros(1, 6))
    (tmp_path / "model.onnx").write_bytes(runnable.files["model.onnx"])
    x = torch.randn(3, 6)
    with parity.IsolatedModel(tmp_path, FORMATS["onnx"], runnable.run) as isolated:
        assert torch.equal(isolated.run(x), x * 2)


def test_a_language_model_in_eight_bits_goes_all_the_way(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = np.random.default_rng(0).integers(1, 20, (16, 9))
    split = ArraySplit({"input_ids": ids[:, :-1]}, ids[:, 1:])
    batch = next(split.batches(16))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, intermediate_size=32, **sizes)).eval()
    layers = [name for name, module in model.named_modules() if layer_kind(module)]
    example = {"input_ids": batch.inputs["input_ids"][:1]}
    model = deploy(model, dict.fromkeys(layers, (8, 8)), example)
    calibrate(model, [batch.inputs])
    runnable = load_target("onnxruntime", tmp_path, {}).build(model, example)
    folder = write_artifact(tmp_path / "out", Contents(model, example, runnable.files, {}, {}, {}))
    task = LanguageModelTask(quantized, lambda: split)
    report = parity.check_parity(folder, runnable.run, task, split)
    assert {"perplexity", "accuracy"} <= set(report["onnx"]["difference"])
    for reader in ("onnx", "module"):
        assert report[reader]["agreement"] == report[reader]["generation"] == 100.0
