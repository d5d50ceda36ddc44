"""YAML text to plain data."""

import pytest

from autoprune.errors import SpecError
from autoprune.spec.document import read_yaml


def test_plain_data_is_read():
    assert read_yaml("a: [1, 2.5]\nb: {c: yes}") == {"a": [1, 2.5], "b": {"c": True}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n  task: [1, 2", "line 2"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: not valid YAML: 'a' is given twice"),
        ("a: !!python/object/apply:os.system [ls]", "line 1"),
        ("a: \x00", "not valid YAML"),
        ("a: 2020-13-45", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("a: *nowhere", "line 1, column 4"),
    ],
)
def test_bad_text_is_refused_with_its_line(text, message):
    with pytest.raises(SpecError) as error:
        read_yaml(text)
    assert message in str(error.value)
