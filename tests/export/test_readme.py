import pytest
import torch

from autoprune.export import readme


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
    assert expected in readme.text(torch.zeros(1, 2), {}, {"input": given}, [])


def test_inputs_of_whole_numbers_keep_their_type():
    text = readme.text(torch.zeros(1, 16, dtype=torch.int64), {}, {}, ["model.onnx"])
    assert "`(N, 16)`, dtype `int64`" in text and "np.zeros((1, 16), dtype=np.int64)" in text


def test_without_an_onnx_file_there_is_no_code_to_run_it():
    assert "onnxruntime" not in readme.text(torch.zeros(1, 2), {}, {}, ["model.bin"])
