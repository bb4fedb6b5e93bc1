"""The page in a real browser: its numbers are the JSON's, its tables sort and filter, and no record can drive it."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from tests.helpers.browser import browser, complaints, requested
from tests.helpers.observed import TROUBLES, observe
from traceloop.exporters.html.page import MAX_BYTES, _small_enough, the_page, write_page
from traceloop.exporters.json.report import dump
from traceloop.reading.new_statistics import new_statistics

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=2>"


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    return observe(tmp_path_factory.mktemp("html"), TROUBLES, "sleep").statistics


def data_in(text: str):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def column(opened, section: str, number: int, attribute: str = "data-value") -> list[str]:
    cells = opened.find_elements("css selector", f"#{section} tbody tr td:nth-child({number})")
    return [cell.get_attribute(attribute) if attribute != "text" else cell.text for cell in cells]


def test_it_opens_from_disk_and_shows_what_the_json_says(statistics, tmp_path):
    path = tmp_path / "report.html"
    write_page(str(path), statistics, command="python app.py")
    data = data_in(path.read_text())
    with browser() as opened:
        opened.get(path.as_uri())
        assert complaints(opened) == []
        assert {url.partition(":")[0] for url in requested(opened)} == {"file"}
        assert opened.find_element("id", "title").text == "python app.py"
        titles = [each.text for each in opened.find_elements("css selector", "#findings h3")]
        assert titles == [each["title"] for each in data["verdict"]["findings"]]
        tiles = {
            each.get_attribute("data-name"): float(each.get_attribute("data-value"))
            for each in opened.find_elements("css selector", "#overview dd")
        }
        overview = data["overview"]
        for tile, name in (("callbacks", "callbacks"), ("utilization", "utilization"), ("processes", "processes")):
            assert tiles[tile] == pytest.approx(overview[name], rel=1e-9)
        (loop,) = data["processes"][0]["loops"]
        assert tiles["delay p99"] == pytest.approx(loop["schedule_delay"][0]["p99_seconds"])
        runs, spent = Counter(), Counter()
        for each in loop["by_callback"]:  # what has one name is one row
            runs[each["name"]] += each["runs"]
            spent[each["name"]] += each["seconds"]
        names = column(opened, "callbacks", 1)
        assert names == sorted(spent, key=lambda name: -spent[name])
        assert [float(value) for value in column(opened, "callbacks", 3)] == [runs[name] for name in names]
        assert [float(value) for value in column(opened, "callbacks", 4)] == pytest.approx(
            [spent[name] for name in names]
        )
        estimated = [each["estimated_seconds"] > 0.1 * each["seconds"] for each in data["processes"][0]["waits"]]
        assert sorted(text.startswith("~") for text in column(opened, "waits", 5, "text")) == sorted(estimated)
        assert column(opened, "slow", 2) == [each["culprit"] for each in loop["slow"]]
        blocked = data["processes"][0]["blocked"]
        assert sorted(map(float, column(opened, "blocked", 4))) == pytest.approx(
            sorted(each["seconds"] for each in blocked)
        )
        assert complaints(opened) == []


def test_before_the_first_callback_it_says_so_and_gives_no_all_clear(tmp_path):
    path = tmp_path / "report.html"
    write_page(str(path), new_statistics())
    with browser() as opened:
        opened.get(path.as_uri())
        (said,) = opened.find_elements("css selector", "#findings p")
        assert said.text == "Nothing is known of the program: no callback was recorded."
        assert "healthy" not in said.get_attribute("class")
        shown = [part.get_attribute("id") for part in opened.find_elements("css selector", "section:not([hidden])")]
        assert shown == ["findings", "overview"]
        assert complaints(opened) == []


def test_one_callback_by_itself_by_mouse_and_keyboard(statistics, tmp_path):
    path = tmp_path / "report.html"
    write_page(str(path), statistics)
    data = data_in(path.read_text())
    (process,) = data["processes"]
    stall = process["stalls"][-1]
    with browser() as opened:
        opened.get(path.as_uri())
        section = opened.find_element("id", "callback")
        assert not section.is_displayed()
        row = opened.find_element("xpath", f"//section[@id='callbacks']//button[.='{stall['callback']}']")
        opened.execute_script("arguments[0].focus()", row)
        # The table is drawn anew each second while the page is live: the row that has the focus keeps it.
        opened.execute_script("document.querySelector('#callbacks input').dispatchEvent(new Event('input'))")
        opened.switch_to.active_element.send_keys("\ue007")
        assert section.is_displayed() and section.find_element("css selector", "h3").text.startswith(stall["callback"])
        counts = [0] * (len(data["duration_bounds_seconds"]) + 1)
        for each in process["loops"][0]["by_callback"]:
            if each["name"] == stall["callback"]:
                counts = [sum(pair) for pair in zip(counts, each["runs_by_duration"], strict=True)]
        bars = section.find_elements("css selector", ".bars li")
        numbers = [int(bar.get_attribute("data-value")) for bar in bars]
        assert sum(numbers) == sum(counts) > 0 and numbers[0] and numbers[-1]
        assert [number for number in numbers if number] == [number for number in counts if number]
        slow = [each for each in process["stalls"] if each["callback"] == stall["callback"]]
        shown = section.find_elements("css selector", "details")
        assert len(shown) == min(5, len(slow)) and stall["culprit"] in shown[0].text
        shown[0].find_element("css selector", "summary").click()
        assert [each.text for each in shown[0].find_elements("css selector", "li")] == stall["stack"]
        assert "One callback" in [each.text for each in opened.find_elements("css selector", "nav a")]
        opened.find_element("css selector", "body").send_keys("\ue00c")
        assert not section.is_displayed() and complaints(opened) == []


def test_one_callback_names_each_who_waited_once(statistics, tmp_path):
    data = json.loads(dump(statistics))
    (process,) = data["processes"]
    stall = process["stalls"][-1]
    row = {"callback": stall["callback"], "culprit": "app.one", "victim_name": "app.late", "times": 2, "seconds": 1.0}
    rows = [row, {**row, "culprit": "app.two", "times": 3, "seconds": 2.0}, {**row, "victim_name": "app.later"}]
    process["blocked"] = [{**(process["blocked"][0] if process["blocked"] else {}), **each} for each in rows]
    path = tmp_path / "report.html"
    path.write_text(the_page().text(json.dumps(data)))
    with browser() as opened:
        opened.get(path.as_uri())
        opened.find_element("xpath", f"//section[@id='callbacks']//button[.='{stall['callback']}']").click()
        heading = "//section[@id='callback']//h4[.='Who waited for its slow runs']"
        items = opened.find_elements("xpath", f"{heading}/following-sibling::ul[1]/li")
        assert [each.text for each in items] == ["app.late: 5 times, 3.00 s", "app.later: 2 times, 1.00 s"]
        assert complaints(opened) == []


def test_tables_sort_and_filter_by_mouse_and_keyboard(statistics, tmp_path):
    path = tmp_path / "report.html"
    write_page(str(path), statistics)
    with browser() as opened:
        opened.get(path.as_uri())
        runs = opened.find_element("xpath", "//section[@id='callbacks']//button[.='runs']")
        runs.click()
        values = [float(value) for value in column(opened, "callbacks", 3)]
        assert values == sorted(values, reverse=True) and len(values) > 3
        runs.send_keys(" ")
        assert [float(value) for value in column(opened, "callbacks", 3)] == sorted(values)
        assert runs.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
        body = opened.find_element("tag name", "body")
        body.send_keys("/")
        opened.switch_to.active_element.send_keys("__main__.handler")
        assert column(opened, "callbacks", 1, "text") == ["__main__.handler"]
        canvas = opened.find_element("css selector", "#timeline canvas")
        canvas.send_keys("\ue012")  # arrow left
        assert re.search(r"active <?[\d.]+%|nothing ran", opened.find_element("css selector", "#timeline .dim").text)
        before = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        opened.find_element("id", "theme").click()
        assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") != before
        assert complaints(opened) == []


def test_names_with_markup_stay_text(statistics, tmp_path):
    data = json.loads(dump(statistics, command=HOSTILE))
    data["processes"][0]["loops"][0]["by_callback"][0]["name"] = HOSTILE
    data["verdict"]["findings"][0]["title"] = HOSTILE
    path = tmp_path / "hostile.html"
    path.write_text(the_page().text(json.dumps(data)))
    with browser() as opened:
        opened.get(path.as_uri())
        assert opened.find_element("id", "title").text == HOSTILE
        assert HOSTILE in column(opened, "callbacks", 1, "text")
        assert opened.execute_script("return window.hurt") is None
        assert complaints(opened) == []


def test_what_several_workers_have_alike_is_one_entry(statistics, tmp_path):
    data = json.loads(dump(statistics))
    (process,), (first, *_) = data["processes"], data["verdict"]["findings"]
    data["processes"] = [{**process, "process": number, "pid": 100 + number} for number in range(3)]
    data["verdict"]["findings"] = [{**first, "process": number, "harm": f"{number} s once"} for number in (2, 0, 1)]
    data["verdict"]["findings"].append({**first, "title": "another", "process": 1})
    path = tmp_path / "workers.html"
    path.write_text(the_page().text(json.dumps(data)))
    with browser() as opened:
        opened.get(path.as_uri())
        titles = [each.text for each in opened.find_elements("css selector", "#findings h3")]
        assert titles == [f"{first['title']} (process 102)", "another (process 101)"]
        said = [each.text for each in opened.find_elements("css selector", "#findings article:first-of-type p")]
        assert said[:2] == ["2 s once", "likewise in process 100: 0 s once; in process 101: 1 s once"]
        assert complaints(opened) == []


def test_it_fits_a_phone(statistics, tmp_path):
    path = tmp_path / "report.html"
    data = json.loads(dump(statistics))
    data["verdict"]["findings"][0]["evidence"].append(f"within {'library.module.' * 8}RequestHandler._handle_request")
    path.write_text(the_page().text(json.dumps(data)))
    with browser() as opened:
        # Chromium's own window is never narrower than 500 pixels.
        opened.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
        )
        opened.get(path.as_uri())
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390


def test_long_tables_are_short_at_first_and_rows_of_several_processes_say_whose_they_are(statistics, tmp_path):
    data = json.loads(dump(statistics))
    (process,) = data["processes"]
    (loop,) = process["loops"]
    (slow, *_) = loop["slow"]
    loop["slow"] = [{**slow, "culprit": f"app.f{number}", "seconds": number} for number in range(30)]
    loop["slow"][29]["culprit"] = "unknown"
    loop["by_callback"] = [{**loop["by_callback"][0], "callback": slow["callback"], "name": "reading"}]
    data["processes"] = [process, {**process, "pid": 4711, "blocked": [], "loops": [{**loop, "slow": []}]}]
    path = tmp_path / "report.html"
    path.write_text(the_page().text(json.dumps(data)))
    with browser() as opened:
        opened.get(path.as_uri())
        assert column(opened, "slow", 1, "text") == [f"reading ({process['pid']})"] * 12
        assert column(opened, "slow", 2, "text")[:2] == ["no stack was taken", "app.f28"]
        button = opened.find_element("css selector", "#slow div > button")
        assert button.text == "Show all 30"
        opened.execute_script("arguments[0].focus()", button)
        button.send_keys("\ue007")
        assert len(column(opened, "slow", 1)) == 30 and button.text == "Show the first 12"
        assert opened.switch_to.active_element == button
        assert not opened.find_elements("css selector", "#loops div > button:not([hidden])")
        assert complaints(opened) == []


def test_a_huge_record_makes_a_page_of_bounded_size(statistics):
    data = json.loads(dump(statistics))
    (process,) = data["processes"]
    rows = process["loops"][0]["by_callback"]
    process["loops"][0]["by_callback"] = [{**rows[0], "name": f"{'n' * 200}{number}"} for number in range(200)]
    data["processes"] = [process] * 150
    small = _small_enough(json.dumps(data))
    assert len(json.dumps(data)) > MAX_BYTES > len(the_page().text(small).encode())
    assert len(json.loads(small)["processes"]) > 1
    # What counts by place is not cut.
    kept = json.loads(small)["processes"][0]["loops"][0]["by_callback"][0]
    assert kept["runs_by_duration"] == rows[0]["runs_by_duration"]


def test_the_policy_names_script_and_style_and_allows_no_network():
    text = the_page().text("null")
    assert "default-src 'none'; script-src 'sha256-" in text and "connect-src" not in text
    assert not re.search(r"https?://(?!traceloop)", text)
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text


def test_the_timelines_of_a_run_have_one_axis(statistics, tmp_path):
    path = tmp_path / "report.html"
    write_page(str(path), statistics)
    text = path.read_text()
    data = data_in(text)
    (process,) = data["processes"]
    (loop,) = process["loops"]
    point, begin = loop["timeline"][0], 1_700_000_000.0

    def ran(*moments):
        return [{**point, "time": begin + each, "active_seconds": 1.0} for each in moments]

    # One loop ends 10 s before the other, which begins 5 s after it.
    process["loops"] = [
        {**loop, "loop": "a", "timeline": ran(*range(10))},
        {**loop, "loop": "b", "timeline": ran(*range(5, 20))},
    ]
    before, rest = text.split('<script type="application/json" id="data">')
    path.write_text(
        f'{before}<script type="application/json" id="data">{json.dumps(data)}</script>{rest.partition("</script>")[2]}'
    )
    look = """
        return [...document.querySelectorAll("#timeline canvas")].map((canvas) => {
            const paint = canvas.getContext("2d");
            const y = canvas.height - 2, empty = paint.getImageData(0, 1, 1, 1).data.join();
            return [...Array(20).keys()].map((second) => {
                const x = Math.floor((second + 0.4) * canvas.width / 20);
                return paint.getImageData(x, y, 1, 1).data.join() !== empty;
            });
        });"""
    with browser() as opened:
        opened.get(path.as_uri())
        first, second = opened.execute_script(look)
        notes = [each.text for each in opened.find_elements("css selector", "#timeline .dim")]
    assert first == [second < 10 for second in range(20)]
    assert second == [second >= 5 for second in range(20)]
    assert len(notes) == 2 and all(note.startswith("20 seconds from ") for note in notes)
