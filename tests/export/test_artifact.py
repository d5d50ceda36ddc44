import json
import re
import subprocess
import sys

import pytest
import torch
from small_networks import Residual, Untraceable, quantized, trained
from torch import nn

import autoprune
from autoprune.cost import count
from autoprune.deployed import deploy
from autoprune.errors import ArtifactError, ParityError
from autoprune.export.artifact import Contents, write_artifact
from autoprune.stored import load, reading
from autoprune.targets import load_target

EXAMPLE = torch.zeros(1, 1, 8, 8)
METRICS = {
    "search": {"accuracy": 97.0},
    "export": {"accuracy": 96.5, "latency_ms": 0.1, "size_bytes": 100.0},
    "baseline": {"accuracy": 97.5, "latency_ms": 0.2, "size_bytes": 400.0},
}
CONFIG = {
    "name": "digits, trial 3",
    "choices": {"prune.stem.ratio": 0.5},
    "input": {"scale": 1 / 16, "mean": [0.5]},
}


def contents(model: nn.Module, example: torch.Tensor = EXAMPLE, **changes) -> Contents:
    given = Contents(model, example, {"model.onnx": b"onnx"}, {"architecture": {}}, METRICS, CONFIG)
    return given._replace(**changes)


@pytest.fixture
def folder(tmp_path):
    return write_artifact(tmp_path / "out", contents(quantized()))


@pytest.mark.parametrize("make", [lambda: trained(Residual()), quantized], ids=["float", "quantized"])
def test_what_is_written_is_what_loads(tmp_path, make):
    model, x = make(), torch.randn(4, 1, 8, 8)
    again = autoprune.load(write_artifact(tmp_path / "out", contents(model)))
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert not again.training


def test_the_weights_take_exactly_the_bytes_that_were_priced(tmp_path):
    model = trained(Residual())
    bits = {"stem": (8, 8), "branch": (4, 8), "head": (4, 8)}
    folder = write_artifact(tmp_path / "out", contents(quantized(4)))
    assert (folder / "model.safetensors").stat().st_size == count(model, EXAMPLE, bits)["size_bytes"]


def test_an_untraceable_network_needs_its_factory_and_keeps_its_widths(tmp_path):
    narrow, x = trained(Untraceable(width=3)), torch.randn(2, 6)
    given = contents(narrow, torch.zeros(1, 6))
    folder = write_artifact(tmp_path / "out", given)
    with pytest.raises(ArtifactError, match=r"load\(folder, model=\.\.\.\)"):
        load(folder)
    torch.testing.assert_close(load(folder, model=Untraceable)(x[:1]), narrow(x[:1]))


def test_an_untraceable_network_keeps_its_quantized_layers(tmp_path):
    example = torch.ones(1, 6)
    model = deploy(trained(Untraceable()), {"first": (4, 8), "second": (8, 32)}, example)
    model.first.input.set_range(-1.0, 2.0)
    folder = write_artifact(tmp_path / "out", contents(model, example))
    torch.testing.assert_close(load(folder, model=Untraceable)(example), model(example), rtol=0, atol=0)


def test_a_composite_of_torch_loads_without_its_code(tmp_path):
    model = trained(nn.Sequential(nn.Linear(6, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)))
    x = torch.randn(2, 3, 6)
    folder = write_artifact(tmp_path / "out", contents(model, x[:1]))
    torch.testing.assert_close(load(folder)(x), model(x))


def test_a_structure_without_graph_and_layers_is_refused(folder):
    rewrite(folder, "structure.json", b'{"format": 1, "graph": null}')
    with pytest.raises(ArtifactError, match="neither a graph nor layers"):
        load(folder, model=Residual)


def test_a_factory_of_another_network_is_refused(tmp_path):
    folder = write_artifact(tmp_path / "out", contents(Untraceable().eval(), torch.zeros(1, 6)))
    with pytest.raises(ArtifactError, match="has no layer 'first'"):
        load(folder, model=Residual)
    with pytest.raises(ArtifactError, match="raises ValueError: broken"):
        load(folder, model=lambda: (_ for _ in ()).throw(ValueError("broken")))


def test_the_folder_holds_what_it_says(folder):
    names = {"README.md", "config.yaml", "manifest.json", "metrics.json", "model.onnx", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == {*names, "structure.json"}
    assert reading.check_files(folder)["format"] == 1
    assert json.loads((folder / "metrics.json").read_text()) == METRICS


def test_the_readme_says_what_goes_in_and_what_was_gained(folder):
    text = (folder / "README.md").read_text()
    assert "(N, 1, 8, 8)" in text and "float32" in text
    assert "`x * 0.0625 - [0.5]`" in text
    assert "2.00× faster and 4.00× smaller" in text


def test_the_code_in_the_readme_runs(tmp_path):
    model = quantized()
    runnable = load_target("onnxruntime", tmp_path, {}).build(model, EXAMPLE)
    folder = write_artifact(tmp_path / "out", contents(model, files=runnable.files))
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    name, _, values = done.stdout.partition(" ")
    assert name == "output"
    printed = [float(number) for number in values.strip(" []\n").split()]
    torch.testing.assert_close(
        torch.tensor(printed), model(torch.ones_like(EXAMPLE))[0], rtol=0.05, atol=0.05
    )


def test_the_code_in_the_readme_of_a_network_with_several_inputs_runs(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.numbers = nn.Embedding(5, 2), nn.Linear(3, 2)

        def forward(self, ids, numbers):
            return {"sum": self.words(ids).sum(1) + self.numbers(numbers)}

    model = trained(Both())
    example = {"ids": torch.ones(1, 4, dtype=torch.int64), "numbers": torch.ones(1, 3)}
    runnable = load_target("onnxruntime", tmp_path, {}).build(model, example)
    folder = write_artifact(tmp_path / "out", contents(model, example, files=runnable.files))
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    printed = [float(number) for number in done.stdout.removeprefix("sum").strip(" []\n").split()]
    torch.testing.assert_close(torch.tensor(printed), model(**example)["sum"][0], rtol=1e-4, atol=1e-4)
    structure = json.loads((folder / "structure.json").read_text())
    assert structure["takes"] == "keywords"
    assert structure["outputs"] == [{"name": "sum", "dtype": "float32", "shape": [1, 2]}]


def test_what_verify_returns_is_kept_and_hashed(tmp_path):
    folder = write_artifact(
        tmp_path / "out", contents(quantized()), lambda staged: {"files": len(list(staged.iterdir()))}
    )
    assert json.loads((folder / "metrics.json").read_text())["parity"] == {"files": 7}
    load(folder)


def test_a_refusal_by_verify_leaves_nothing(tmp_path):
    def refuse(staged):
        raise ParityError("another model")

    with pytest.raises(ParityError):
        write_artifact(tmp_path / "deep" / "out", contents(quantized()), refuse)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty"):
        write_artifact(tmp_path, contents(quantized()))
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_artifact(tmp_path / "mine.txt" / "out", contents(quantized()))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["../model.onnx", "manifest.json", "", ".hidden", "a/b"])
def test_a_target_cannot_write_elsewhere(tmp_path, name):
    with pytest.raises(ArtifactError, match="plain name"):
        write_artifact(tmp_path / "out", contents(quantized(), files={name: b""}))


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def add_file(folder):
    (folder / "extra.py").write_text("")


def link_file(folder):
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def change_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TAMPERED = {
    "a flipped bit": (flip_a_bit, "was changed"),
    "an added file": (add_file, "does not list"),
    "a missing file": (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
    "a link": (link_file, "is a link"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "is no artifact"),
    "a broken manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
    "a list as manifest": (lambda folder: (folder / "manifest.json").write_text("[]"), "JSON object"),
    "a newer format": (lambda folder: change_manifest(folder, format=2), "upgrade"),
    "no format": (lambda folder: change_manifest(folder, format=None), "has format None"),
    "no list of files": (lambda folder: change_manifest(folder, files=[]), "does not list"),
}


@pytest.mark.parametrize(("tamper", "message"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_artifact_is_refused(folder, tamper, message):
    tamper(folder)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


def test_a_path_that_leaves_the_folder_is_refused(folder):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    change_manifest(folder, files={**files, "../elsewhere": files["model.onnx"]})
    with pytest.raises(ArtifactError, match="no file of this folder"):
        load(folder)


def rewrite(folder, name, data):
    """Change a file and its hash: what a malicious sender would do."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    change_manifest(folder, files={**files, name: reading.identity_of(folder / name)})


def test_weights_that_do_not_fit_their_structure_are_refused(folder):
    from safetensors.torch import save

    rewrite(folder, "model.safetensors", b"no tensors at all")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(folder)
    rewrite(folder, "model.safetensors", save({"stem.bias": torch.zeros(4)}))
    with pytest.raises(ArtifactError, match="does not fit"):
        load(folder)


def test_a_huge_structure_is_refused(folder, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST_JSON", 10)
    with pytest.raises(ArtifactError, match="larger than"):
        load(folder)
