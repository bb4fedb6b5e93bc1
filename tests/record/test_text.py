"""Text of a record, made fit to be shown."""

import pytest

from traceloop.record.text import MAX_NAME, printable, printable_data, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("app.handler", "app.handler"),
        ("täsk ☃", "täsk ☃"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x07\x9b", "\\x1b[2J\\x07\\x9b"),
        ("caf\udce9", "caf\\udce9"),
        ("\u202egpj.exe\u2028", "\\u202egpj.exe\\u2028"),
        ("", ""),
        ("z" * MAX_NAME, "z" * MAX_NAME),
        ("z" * 1000, "z" * (MAX_NAME - 3) + "..."),
    ],
)
def test_names(text, shown):
    assert printable(text) == shown


def test_escapes_are_cut_as_well():
    assert len(printable("\x00" * 1000)) == MAX_NAME


def test_lines_stay_lines():
    assert printable_lines("a\n\x1bb\nc") == "a\n\\x1bb\nc"


def test_decoded_json():
    data = {"a\n": ["\ud800", 1, 2.5, None, True, {"b": "c"}]}
    assert printable_data(data) == {"a\\n": ["\\ud800", 1, 2.5, None, True, {"b": "c"}]}
    nested: list = []
    for _ in range(100):
        nested = [nested]
    assert printable_data(nested) == [[[[[[[[None]]]]]]]]
