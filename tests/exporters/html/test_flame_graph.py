"""The flame graph in a real browser: its boxes are the JSON's, keys move and widen, and names are never markup."""

from __future__ import annotations

import pytest

from tests.exporters.html.test_page import HOSTILE, data_in
from tests.helpers.browser import browser, complaints
from traceloop.exporters.html.page import write_page
from traceloop.exporters.json.profile import profile as plain_profile
from traceloop.reading.decoding.decoded import Decoded, StackNode, StackSample
from traceloop.reading.new_statistics import new_statistics
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
