"""The name of a callback is looked for once. After that, the loop finds its ident by the code that runs."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import weakref
from contextlib import closing
from typing import Any

import pytest

from tests.helpers.cores import CORES
from tests.helpers.in_cython import compiled
from tests.helpers.recorded_handles import runs_by_site
from tests.helpers.waiting import PATIENCE
from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.recording.site_log import SiteLog

CYTHON = """
def function(*args):
    pass

class Owner:
    def method(self, *args):
        pass

async def coroutine():
    pass
"""
CALLBACKS = ("function", "method", "partial", "partial of a method")
TIMES = 50
SERIAL = itertools.count()  # of functions: a ring serves one loop after the other


@pytest.fixture(scope="module")
def in_cython(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("cython"), "compiled_callbacks", CYTHON) as module:
        yield module


@pytest.fixture(params=CORES)
def loop(request):
    with asyncio.Runner(debug=False, loop_factory=CORES[request.param]) as runner:
        yield runner.get_loop()


class Owner:
    def method(self, *args: Any) -> None:
        pass


def function(*args: Any) -> None:
    pass


def callback(kind: str, owner: Any, function: Any) -> Any:
    return {
        "function": function,
        "method": owner.method,
        "partial": functools.partial(function, 1),
        "partial of a method": functools.partial(owner.method, 1),
    }[kind]


@pytest.fixture
def named(monkeypatch):
    """The sites that were looked up by their names, one after the other."""
    sites: list[str] = []
    number = SiteLog.number
    monkeypatch.setattr(SiteLog, "number", lambda self, site: sites.append(site.qualname) or number(self, site))
    return sites


def run_often(loop: Any, call: Any) -> None:
    async def main() -> None:
        for _ in range(TIMES):
            call()
            await asyncio.sleep(0)

    loop.run_until_complete(main())


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_function_of_cython_is_named_once(loop, named, in_cython, kind):
    called = callback(kind, in_cython.Owner(), in_cython.function)
    run_often(loop, lambda: loop.call_soon(called))
    name = "Owner.method" if "method" in kind else "function"
    assert named.count(name) <= 1
    recorder = loop._recorder
    assert recorder.process.site_log.sites[int(recorder.identify(called))][:2] == ("compiled_callbacks", name)


def test_a_coroutine_of_cython_is_named_once(loop, named, in_cython):
    run_often(loop, lambda: loop.create_task(in_cython.coroutine()))
    assert named.count("coroutine") <= 1


@pytest.mark.skipif("c" not in CORES, reason="the core in C was not built")
@pytest.mark.parametrize("kind", CALLBACKS)
def test_the_core_in_c_asks_once_for_what_runs_python_code(kind):
    with asyncio.Runner(debug=False, loop_factory=CORES["c"]) as runner:
        loop: Any = runner.get_loop()
        recorder, asked = loop._recorder, []
        identify = recorder.identify
        recorder.identify = lambda callback: asked.append(callback) or identify(callback)
        called = callback(kind, Owner(), function)
        run_often(loop, lambda: loop.call_soon(called))
    assert asked.count(called) <= 1


class Deceiver:
    """Says that it has code, and has none."""

    def __init__(self, code: Any) -> None:
        self.code = code

    @property
    def __code__(self) -> Any:
        if isinstance(self.code, Exception):
            raise self.code
        return self.code


@pytest.mark.parametrize("code", [None, 3, ValueError("none"), function.__code__])
@pytest.mark.parametrize("name", ["Deceiver", "cython_function_or_method"])
def test_objects_that_say_they_have_code_run_all_the_same(loop, code, name):
    ran = []
    odd: Any = type(name, (Deceiver,), {"__call__": lambda self: ran.append(self)})(code)
    run_often(loop, lambda: loop.call_soon(odd))
    run_often(loop, lambda: loop.call_soon(functools.partial(odd)))
    assert ran == [odd] * 2 * TIMES


def functions_named(names: list[str]) -> list[Any]:
    """Each with a code of its own."""
    namespace: dict[str, Any] = {}
    exec("".join(f"def {name}(): pass\n" for name in names), namespace)
    return [namespace[name] for name in names]


def runs_by_name(recorder: Any) -> dict[str, int]:
    sites = recorder.process.site_log.sites
    with closing(RingReader(recorder.ring.buffer)) as reader:
        return {sites[site].qualname: times for site, times in runs_by_site(reader).items()}


def test_names_stay_right_while_functions_come_and_go(loop):
    async def run_all(functions: list[Any]) -> None:
        for _ in range(5):
            for each in functions:
                loop.call_soon(each)
            await asyncio.sleep(0)

    async def until_gone(codes: list[weakref.ref[Any]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while any(code() is not None for code in codes):
                await asyncio.sleep(0)

    generations = [[f"function_{next(SERIAL)}" for _ in range(1500)] for _ in range(3)]
    for names in generations:
        functions = functions_named(names)
        loop.run_until_complete(run_all(functions))
        codes = [weakref.ref(each.__code__) for each in functions]
        functions.clear()
        gc.collect()  # each is in the namespace that it has
        loop.run_until_complete(until_gone(codes))  # what comes next takes their addresses
    runs = runs_by_name(loop._recorder)
    every = [name for names in generations for name in names]
    assert {name: runs[name] for name in every} == dict.fromkeys(every, 5)
