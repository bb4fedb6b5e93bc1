"""The flame graph in a real browser: its boxes are the JSON's, keys move and widen, and names are never markup."""

from __future__ import annotations

import pytest

from tests.exporters.html.test_page import HOSTILE, data_in
from tests.helpers.browser import browser, complaints
from traceloop.exporters.html.page import write_page
from traceloop.exporters.json.profile import profile as plain_profile
from traceloop.reading.decoding.decoded import Decoded, StackNode, StackSample
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.requests.parts import add_to as add_requests
from traceloop.reading.requests.parts import requests_of
from traceloop.reading.requests.totals import Request
from traceloop.reading.site_names import SiteNames
from traceloop.record.sites import UNKNOWN_SITE, Site

SITES = [
    UNKNOWN_SITE,
    Site("app", "handler", "/srv/app.py", 3),
    Site("starlette.routing", "run", "/usr/lib/python3/dist-packages/starlette/routing.py", 9),
    Site("starlette.middleware", "call", "/usr/lib/python3/dist-packages/starlette/middleware.py", 5),
    Site("app", HOSTILE, "/srv/app.py", 31),
    Site("app", "other", "/srv/app.py", 40),
]
# handler: starlette, starlette, HOSTILE; and handler: other
NODES = [
    StackNode(1, 0, 2, False),
    StackNode(2, 1, 3, False),
    StackNode(3, 2, 4, False),
    StackNode(4, 0, 5, False),
]


def profiled():
    statistics = new_statistics()
    process = statistics.attach(11, SiteNames(SITES), {})
    decoded = Decoded(None)
    decoded.nodes, decoded.profile_rate = list(NODES), 100.0
    decoded.samples = [StackSample(5.0, s, 1.0, node, 0) for node, s in ((3, 0.5), (2, 0.1), (4, 0.4))]
    process.feed(decoded, None)
    return statistics, process


def test_frames_of_a_framework_are_one_node():
    _, process = profiled()
    tree = plain_profile(process)["tree"]
    (callback,) = tree["children"]
    assert (callback["name"], callback["kind"]) == ("app.handler", "callback")
    framework, other = callback["children"]
    assert (framework["name"], framework["kind"], framework["seconds"]) == ("starlette", "library", pytest.approx(0.6))
    assert (other["name"], other["place"]) == ("app.other", "app.py:40")
    assert [child["seconds"] for child in framework["children"]] == [pytest.approx(0.5)]


REQUEST_SITES = [
    UNKNOWN_SITE,
    Site("uvicorn", "Cycle.run_asgi", "/usr/lib/python3/dist-packages/uvicorn/http.py", 9),
    Site("app", "middleware", "/srv/app.py", 5),
    Site("app", "item", "/srv/app.py", 31),
    Site("app", "order", "/srv/app.py", 41),
    Site("app", "render", "/srv/app.py", 50),
    Site("anyio", "TaskHandle.run", "/usr/lib/python3/dist-packages/anyio/tasks.py", 9),
]
# run_asgi: middleware: item: render; run_asgi: order; run_asgi; anyio's task: item: render
REQUEST_NODES = [
    StackNode(1, 0, 1, False),
    StackNode(2, 1, 2, False),
    StackNode(3, 2, 3, False),
    StackNode(4, 3, 5, False),
    StackNode(5, 1, 4, False),
    StackNode(6, 0, 6, False),
    StackNode(7, 6, 3, False),
    StackNode(8, 7, 5, False),
]


def served(*names):
    """Two tasks and a worker thread, profiled; ``names``: of the requests that were answered."""
    statistics = new_statistics()
    add_requests(statistics)
    process = statistics.attach(11, SiteNames(REQUEST_SITES), {})
    for name in names:
        requests_of(process).add(Request(name, 5.0, 1.0, {("running", ""): 1.0}))
    decoded = Decoded(None)
    decoded.nodes, decoded.profile_rate = list(REQUEST_NODES), 100.0
    of_loop = ((4, 0.5, 1), (5, 0.25, 1), (2, 0.125, 1), (8, 1.0, 6))
    decoded.samples = [StackSample(5.0, seconds, float(site), node, 0) for node, seconds, site in of_loop]
    decoded.samples.append(StackSample(5.0, 2.0, 0.0, 7, -1))
    process.feed(decoded, None)
    return statistics, process


def test_what_runs_for_a_request_hangs_under_its_name_whichever_task_ran_it():
    _, process = served("app.item", "app.order", "uvicorn.Cycle.run_asgi")
    known = plain_profile(process)
    item, *others = known["requests"]["children"]
    assert (item["kind"], item["name"], item["seconds"]) == ("request", "app.item", pytest.approx(3.5))
    assert sorted((each["kind"], each["name"], each["seconds"]) for each in others) == [
        ("request", "app.order", pytest.approx(0.25)),
        ("request", "uvicorn.Cycle.run_asgi", pytest.approx(0.125)),
    ]
    threads, handler = item["children"]
    assert (threads["kind"], threads["name"], threads["seconds"]) == ("worker", "worker threads", pytest.approx(2.0))
    # Two tasks' samples are one box, down to the culprit.
    assert (handler["name"], handler["place"], handler["seconds"]) == ("app.item", "app.py:31", pytest.approx(1.5))
    assert [(each["name"], each["seconds"]) for each in handler["children"]] == [("app.render", pytest.approx(1.5))]
    assert {line["function"]: line["request"] for line in known["lines"]} == {
        "app.render": "app.item",
        "app.order": "app.order",
        "app.middleware": "uvicorn.Cycle.run_asgi",
    }


def test_a_program_without_requests_has_no_tree_of_them():
    _, process = served()
    known = plain_profile(process)
    assert known["requests"] is None and {line["request"] for line in known["lines"]} == {None}


def test_the_graph_by_request_is_shown_first_and_can_be_changed(tmp_path):
    statistics, _ = served("app.item", "app.order")
    path = tmp_path / "report.html"
    write_page(str(path), statistics)
    known = data_in(path.read_text())["processes"][0]["profile"]
    with browser() as opened:
        opened.get(path.as_uri())

        def top():
            boxes = opened.find_elements("css selector", '.flame .box[data-row="0"]')
            return {each.get_attribute("aria-label").partition(":")[0]: each for each in boxes}

        def button(text):
            return opened.find_element("xpath", f"//section[@id='profile']//button[.='{text}']")

        assert set(top()) == {each["name"] for each in known["requests"]["children"]}
        assert "3.50 s" in top()["app.item"].get_attribute("aria-label")
        assert button("By request").get_attribute("aria-pressed") == "true"
        button("By callback").send_keys("\ue007")
        assert set(top()) == {each["name"] for each in known["tree"]["children"]}
        assert button("By callback").get_attribute("aria-pressed") == "true"
        assert complaints(opened) == []


def test_what_is_little_and_what_is_deep_is_left_out():
    _, process = profiled()
    decoded = Decoded(None)
    decoded.nodes = [StackNode(100 + n, 99 + n if n else 0, 4 + n % 2, False) for n in range(300)]
    decoded.nodes.append(StackNode(50, 1, 5, False))
    decoded.samples = [StackSample(6.0, 3.0, 1.0, 399, 0), StackSample(6.0, 1e-6, 1.0, 50, 0)]
    process.feed(decoded, None)
    node, depth = plain_profile(process)["tree"], 0
    assert len(str(node)) < 100_000
    while node["children"]:
        node, depth = node["children"][0], depth + 1
    assert depth == 100


def test_it_is_drawn_and_goes_by_keys(tmp_path):
    statistics, _ = profiled()
    path = tmp_path / "report.html"
    write_page(str(path), statistics)
    tree = data_in(path.read_text())["processes"][0]["profile"]["tree"]
    with browser() as opened:
        opened.get(path.as_uri())

        def boxes():
            return {
                each.get_attribute("aria-label"): each for each in opened.find_elements("css selector", ".flame .box")
            }

        drawn = boxes()
        assert len(drawn) == 4
        widths = {label: each.size["width"] for label, each in drawn.items()}
        assert {float(each.get_attribute("data-value")) for each in drawn.values()} == {
            tree["seconds"],
            *(child["seconds"] for child in tree["children"][0]["children"]),
            tree["children"][0]["children"][0]["children"][0]["seconds"],
        }
        wide = widths[next(label for label in widths if label.startswith("app.handler"))]
        (other,) = [label for label in widths if label.startswith("app.other")]
        assert widths[other] == pytest.approx(0.4 * wide, abs=3)
        (hostile,) = [label for label in widths if HOSTILE in label]
        assert opened.execute_script("return window.hurt") is None

        def focused():
            return opened.switch_to.active_element.get_attribute("aria-label")

        def press(key):
            opened.switch_to.active_element.send_keys(key)

        opened.execute_script("document.querySelector('.flame .box[tabindex=\"0\"]').focus()")
        press("\ue015")  # down
        press("\ue014")  # right
        assert focused() == other
        press("\ue007")  # Enter
        assert focused() == other
        assert boxes()[other].size["width"] == pytest.approx(wide, abs=2)
        assert hostile not in boxes()
        press("\ue00c")  # Escape
        assert hostile in boxes()
        assert complaints(opened) == []
