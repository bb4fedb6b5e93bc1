"""docs/record-format.md says what the layout says."""

import re

import pytest

from tests.helpers.paths import ROOT
from traceloop.record import files, layout

PAGE = (ROOT / "docs" / "record-format.md").read_text()
ROWS = {name: float(number) for number, name in re.findall(r"^\| (-?\d+) \| `([RW]_\w+)` \|", PAGE, re.MULTILINE)}


@pytest.mark.parametrize("prefix", ["R_", "W_"])
def test_every_kind_and_every_word_is_described(prefix):
    ours = {name: float(getattr(layout, name)) for name in dir(layout) if name.startswith(prefix)}
    assert ours
    assert {name: number for name, number in ROWS.items() if name.startswith(prefix)} == ours


def test_every_file_of_a_run_is_described():
    names = {getattr(files, name) for name in dir(files) if name.isupper() and isinstance(getattr(files, name), str)}
    assert {name for name in names if name not in PAGE} == set()


def test_numbers_of_the_format():
    assert f"version {layout.VERSION}." in PAGE and layout.MAGIC.decode() in PAGE
    for offset in (layout.WORDS_OFFSET, layout.OWNER_OFFSET, layout.DATA_OFFSET):
        assert f"| {offset} |" in PAGE
    assert f"{layout.BATCH_MAGIC:#x}".upper().replace("X", "x") in PAGE
