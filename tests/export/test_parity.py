import numpy as np
import pytest
import torch
from small_networks import quantized

from autoprune.errors import ParityError
from autoprune.export import parity, run_onnx
from autoprune.export.artifact import Contents, write_artifact
from autoprune.targets import load_target

EXAMPLE = torch.zeros(1, 1, 8, 8)
INPUTS = np.random.default_rng(0).normal(size=(200, 1, 8, 8)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 3, 200)


def accuracy(outputs):
    return {"accuracy": 100.0 * float((outputs.argmax(1) == TARGETS[: len(outputs)]).mean())}


def error(outputs):
    return {"mse": float(np.square(outputs).mean())}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An artifact and the outputs of the candidate that it was made from."""
    folder = tmp_path_factory.mktemp("artifact") / "out"
    model = quantized(8)
    runnable = load_target("onnxruntime", folder, {}).build(model, EXAMPLE)
    write_artifact(folder, Contents(model, EXAMPLE, runnable.files, {}, {}, {}))
    return folder, runnable.run(INPUTS)


def test_the_artifact_of_the_measured_candidate_passes(exported):
    folder, measured = exported
    report = parity.check_parity(folder, INPUTS, measured, accuracy)
    assert report["examples"] == 200
    assert report["onnx"]["agreement"] == 100.0 and report["onnx"]["difference"]["accuracy"] == 0.0
    assert report["module"]["agreement"] >= 99.5


def test_another_candidate_is_refused_with_figures(exported):
    folder, measured = exported
    with pytest.raises(
        ParityError, match=r"ONNX file is not the model .* predictions agree on .* accuracy differs"
    ):
        parity.check_parity(folder, INPUTS, np.roll(measured, 1, axis=1), accuracy)


def test_without_classes_the_outputs_themselves_are_compared(exported):
    folder, measured = exported
    assert "agreement" not in parity.check_parity(folder, INPUTS, measured, error)["onnx"]
    with pytest.raises(ParityError, match="outputs differ by"):
        parity.check_parity(folder, INPUTS, measured * 1.1, error)


def test_one_changed_prediction_is_too_many_for_the_file_but_not_for_the_module():
    measured = np.eye(3, dtype=np.float32)[TARGETS]
    other = measured.copy()
    other[0] = np.roll(other[0], 1)
    found = parity.compare(measured, other, accuracy, accuracy(measured))
    assert found["agreement"] == 99.5 and found["difference"]["accuracy"] == pytest.approx(-0.5)
    parity._refuse("module", found, spare=1 / 200)
    with pytest.raises(ParityError, match=r"accuracy differs by 0\.50 points"):
        parity._refuse("ONNX file", found, spare=0.0)


@pytest.mark.parametrize("outputs", [np.zeros((2, 4)), np.full((2, 3), np.nan)], ids=["shape", "nan"])
def test_outputs_of_another_kind_are_refused(outputs):
    with pytest.raises(ParityError, match="gives"):
        parity.compare(np.zeros((2, 3)), outputs, error, {})


def test_a_file_that_does_not_run_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ParityError, match="does not run in a process of its own"):
        parity.run_isolated(tmp_path / "model.onnx", INPUTS)


def test_a_file_that_takes_for_ever_is_refused(exported, monkeypatch):
    monkeypatch.setattr(parity, "TIME_LIMIT", 0.01)
    with pytest.raises(ParityError, match="did not finish"):
        parity.run_isolated(exported[0] / "model.onnx", INPUTS)


def test_the_script_runs_a_file_batch_by_batch(exported, tmp_path):
    folder, measured = exported
    np.save(tmp_path / "in.npy", INPUTS)
    run_onnx.main(str(folder / "model.onnx"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), measured)
