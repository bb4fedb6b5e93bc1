"""The page in Firefox: it shows what it shows in Chromium, without a word on the console."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.exporters.html.test_flame_graph import served
from tests.exporters.html.test_page import data_in
from tests.helpers.firefox import Firefox, firefox
from tests.helpers.observed import TROUBLES, observe
from traceloop.exporters.html.page import write_page

pytestmark = pytest.mark.slow


def texts(opened: Firefox, selector: str, what: str = "textContent") -> list[str]:
    return opened.evaluate(f"[...document.querySelectorAll({selector!r})].map((each) => each.{what})")


def column(opened: Firefox, section: str, number: int) -> list[Any]:
    return texts(opened, f"#{section} tbody tr td:nth-child({number})", "dataset.value")


def test_the_numbers_are_the_jsons_and_it_fits_a_phone(tmp_path: Path) -> None:
    statistics = observe(tmp_path / "run", TROUBLES, "sleep").statistics
    path = tmp_path / "report.html"
    write_page(str(path), statistics, command="python app.py")
    data = data_in(path.read_text())
    (loop,) = data["processes"][0]["loops"]
    with firefox(tmp_path) as opened:
        opened.get(path.as_uri())
        assert texts(opened, "#title") == ["python app.py"]
        assert texts(opened, "#findings h3") == [each["title"] for each in data["verdict"]["findings"]]
        tiles = dict(zip(texts(opened, "#overview dd", "dataset.name"), column_of_tiles(opened), strict=True))
        for name in ("callbacks", "utilization", "processes"):
            assert tiles[name] == pytest.approx(data["overview"][name], rel=1e-9)
        assert tiles["delay p99"] == pytest.approx(loop["schedule_delay"][0]["p99_seconds"])
        runs: Counter[str] = Counter()
        for each in loop["by_callback"]:  # what has one name is one row
            runs[each["name"]] += each["runs"]
        names = texts(opened, "#callbacks tbody tr td:nth-child(1)")
        assert [float(value) for value in column(opened, "callbacks", 3)] == [runs[name] for name in names]
        assert texts(opened, "#slow tbody tr td:nth-child(2)") == [each["culprit"] for each in loop["slow"]]
        # Landmarks for a screen reader: each part is a region with a name, and the list of parts leads to it.
        assert [len(texts(opened, landmark)) for landmark in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
        shown = texts(opened, "main > section:not([hidden])", "ariaLabel")
        assert texts(opened, "nav a") == shown and all(shown)
        headings = "[...document.querySelectorAll('#callbacks th button')]"
        opened.evaluate(f"{headings}.find((button) => button.textContent === 'runs').click()")
        values = [float(value) for value in column(opened, "callbacks", 3)]
        assert values == sorted(values, reverse=True) and len(values) > 3
        before = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        opened.press("t")
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") != before
        opened.press("/", *"__main__.handler")
        assert texts(opened, "#callbacks tbody tr td:nth-child(1)") == ["__main__.handler"]
        opened.resize(390, 800)
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        assert opened.complaints == []
        assert {url.partition(":")[0] for url in opened.requested} <= {"file", "data"}


def column_of_tiles(opened: Firefox) -> list[float]:
    return [float(value) for value in texts(opened, "#overview dd", "dataset.value")]


def test_the_flame_graph_is_drawn(tmp_path: Path) -> None:
    statistics, _ = served("app.item", "app.order")
    path = tmp_path / "report.html"
    write_page(str(path), statistics)
    known = data_in(path.read_text())["processes"][0]["profile"]
    with firefox(tmp_path) as opened:
        opened.get(path.as_uri())
        top = '.flame .box[data-row="0"]'
        wide = opened.evaluate("document.querySelector('.flame').clientWidth")
        widths = opened.evaluate(f"[...document.querySelectorAll({top!r})].map((each) => each.offsetWidth)")
        children = known["requests"]["children"]
        assert [float(value) for value in texts(opened, top, "dataset.value")] == [each["seconds"] for each in children]
        shares = [each["seconds"] / known["requests"]["seconds"] for each in children]
        assert widths == pytest.approx([share * wide for share in shares], abs=3)
        buttons = "[...document.querySelectorAll('#profile button')]"
        opened.evaluate(f"{buttons}.find((button) => button.textContent === 'By callback').click()")
        children = known["tree"]["children"]
        assert [float(value) for value in texts(opened, top, "dataset.value")] == [each["seconds"] for each in children]
        assert opened.complaints == []
