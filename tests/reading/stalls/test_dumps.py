"""Stacks as faulthandler writes them, read back and named as ours are."""

from __future__ import annotations

import faulthandler
import textwrap
import threading

import pytest

from traceloop.reading.stalls.dumps import module_by_path, name_frames, parse_dump, qualname_at
from traceloop.record.frames import OUR_FOLDER

LOOP = OUR_FOLDER + "core/recorded_iteration.py"
DUMP = f"""Fatal Python error: Segmentation fault

Thread 0x00007f12 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
  File "/usr/lib/python3.11/threading.py", line ??? in run

Current thread 0x00007F13 (most recent call first):
  File "/srv/app/prices.py", line 31 in load
  File "/srv/app/main.py", line 5 in serve
  File "{LOOP}", line 100 in iterate_recorded
  File "/srv/app/main.py", line 90 in main
  nonsense

Extension modules: orm.fast (total: 1)
"""


def test_a_dump():
    other, current = parse_dump(DUMP)
    assert (other.thread, current.thread) == (0x7F12, 0x7F13)
    assert other.frames[0] == ("/usr/lib/python3.11/threading.py", 0, "run") and other.below_loop() is None
    assert current.below_loop() == [("/srv/app/main.py", 5, "serve"), ("/srv/app/prices.py", 31, "load")]


def test_a_frame_that_was_being_made_is_passed_over():
    """The thread goes on while another dumps it: what stands for its file may be any string."""
    whole = 'Thread 0x12 (most recent call first):\n  File "/srv/app/main.py", line 5 in serve\n'
    torn = whole.replace("  File", '  File "__init__", line 0 in __init__\n  File', 1)
    assert [each.frames for each in parse_dump(torn)] == [[("/srv/app/main.py", 5, "serve")]]


@pytest.mark.parametrize(
    ("text", "threads", "frames"),
    [
        ("", 0, 0),
        ("nothing of it", 0, 0),
        ('  File "/a.py", line 1 in f', 0, 0),
        ("Thread 0x1", 1, 0),
        ('Thread 0x1\n  File "/a.py", line 1 in f', 1, 1),
        ('Thread 0x1\n  File "/a "b".py", line 1 in f (x)', 1, 1),
        ('Thread 0xzz\n  File "/a.py", line 1 in f', 0, 0),
        ('Thread 0x1\n  File "/a.py", line -1 in f', 1, 0),
        ('Thread 0x1\n  File "/a.py", line 1', 1, 0),
        (DUMP + DUMP, 4, 12),
        ('Thread 0x1\n  File "\x1b[2J\x00", line 1 in \ud800', 1, 1),
    ],
)
def test_what_is_no_dump_is_passed_over(text, threads, frames):
    found = parse_dump(text)
    assert (len(found), sum(len(each.frames) for each in found)) == (threads, frames)
    assert all(part.isprintable() for each in found for file, _, name in each.frames for part in (file, name))


def test_a_real_dump_of_this_thread(tmp_path):
    with open(tmp_path / "dump", "w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        (thread,) = (each for each in parse_dump(file.read()) if each.thread == threading.get_ident())
    file, line, name = thread.frames[-1]
    assert (file, name) == (__file__, "test_a_real_dump_of_this_thread") and line > 0


SOURCE = """
    import functools

    class Prices:
        @functools.cache
        def load(self):
            def load():
                return [x for x in (
                    1, 2)]
            return load()

        async def serve(self): return (lambda: 1)()

    def load():
        pass

    class load:
        def run(self): pass
"""


@pytest.mark.parametrize(
    ("line", "function", "qualname"),
    [
        (5, "load", "Prices.load"),
        (6, "load", "Prices.load"),
        (7, "load", "Prices.load.<locals>.load"),
        (9, "load", "Prices.load.<locals>.load"),
        (10, "load", "Prices.load"),
        (12, "serve", "Prices.serve"),
        (12, "<lambda>", "Prices.serve.<locals>.<lambda>:12"),
        (15, "load", "load"),
        (18, "run", "load.run"),
        (18, "load", "load"),
        (99, "load", "load"),
        (0, "load", "load"),
        (8, "<listcomp>", "<listcomp>"),
        (1, "<module>", "<module>"),
    ],
)
def test_the_qualified_name_is_found_by_the_line(tmp_path, line, function, qualname):
    path = tmp_path / "prices.py"
    path.write_text(textwrap.dedent(SOURCE))
    assert qualname_at(str(path), line, function) == qualname


@pytest.mark.parametrize("source", [b"def (", b"\xff\xfe\x00", b"(" * 5000, b"x = '" + b"\0", b""])
def test_source_that_cannot_be_read_leaves_the_bare_name(tmp_path, source):
    path = tmp_path / "prices.py"
    path.write_bytes(source)
    assert qualname_at(str(path), 1, "load") == "load"
    assert qualname_at(str(tmp_path / "none.py"), 1, "load") == "load"


def test_modules(tmp_path):
    package = tmp_path / "app" / "core"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    assert module_by_path(str(package / "prices.py")) == "app.core.prices"
    assert module_by_path(str(package / "__init__.py")) == "app.core"
    assert module_by_path(str(tmp_path / "script.py")) == "script"
    assert module_by_path("<string>") == module_by_path("") == ""
    known = {"/a.py": "__main__"}
    frames = [("/a.py", 1, "f"), (str(package / "prices.py"), 1, "g")]
    assert [frame[2] for frame in name_frames(frames, lambda file: known.get(file, ""))] == [
        "__main__", "app.core.prices",
    ]  # fmt: skip
