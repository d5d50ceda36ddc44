import pytest
import torch

from autoprune.export import readme
from autoprune.targets.interface import Interface
from autoprune.targets.onnx_graph import EXAMPLE


def text(example, config=None, files=(), runtime=None):
    ports = Interface(example, torch.zeros(1, 2)).describe()
    structure = {**ports, "takes": readme.form_of(example), "structure": {"runtime": runtime}}
    return readme.text(structure, {}, config or {}, list(files))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "are those that the task's batches hold."),
        ({"scale": None, "mean": None, "layout": None}, "8-bit images (0 to 255) are divided by 255."),
        ({"scale": 0.5}, "become `x * 0.5`"),
        ({"mean": [0.5, 0.25], "std": [2.0, 2.0]}, "become `(x - [0.5, 0.25]) / [2, 2]`"),
        ({"mean": [0.5]}, "Before that, 8-bit images (0 to 255) are divided by 255."),
    ],
)
def test_the_readme_says_how_inputs_are_made(given, expected):
    assert expected in text(torch.zeros(1, 2), {"input": given})


def test_figures_are_said_to_be_measured_or_modelled():
    metrics = {"sources": {"latency_ms": "modelled: by hand"}, "unstable": True}
    assert "of one example; `latency_ms` is modelled: by hand; that time kept changing" in readme.text(
        {"inputs": [], "takes": "tensor"}, metrics, {}, []
    )


def test_inputs_of_whole_numbers_keep_their_type():
    written = text(torch.zeros(1, 16, dtype=torch.int64), files=["model.onnx"])
    assert "`(N, 16)`, dtype `int64`" in written and "np.ones((1, 16), dtype=np.int64)" in written


def test_without_an_onnx_file_there_is_no_code_to_run_it():
    assert "onnxruntime" not in text(torch.zeros(1, 2), files=["model.bin"])


def test_several_inputs_are_listed_by_name():
    example = {"ids": torch.zeros(1, 4, dtype=torch.int64), "scale": torch.tensor(2.0)}
    written = text(example, files=["model.onnx"])
    assert "- `ids`: shape `(N, 4)`, dtype `int64`" in written and "- `scale`: shape `()`" in written
    assert "called as model(ids=ids, scale=scale)" in written


def test_inputs_by_position_are_given_by_position():
    assert "called as model(input_0, input_1)" in text((torch.zeros(1, 2), torch.zeros(1)))
    assert "called as the network was" in text((torch.zeros(1, 2), [torch.zeros(1)]))


def test_a_file_for_one_example_says_so():
    assert "takes one example at a time" in text(torch.zeros(1, 2), runtime={"takes": EXAMPLE})
