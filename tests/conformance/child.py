"""Runs one module of ``test.test_asyncio`` in this process, on the loop that is asked for, and writes what
each test did.

Started by run_cpython.py, one process a module, so that a crash or a hang costs one module and not the run.
Each line of the output file is one JSON object, flushed at once: ``{"start": id}``, then ``{"id", "outcome",
"detail"}``.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import signal
import sys
import unittest

FAILED = ("failure", "error", "unexpected success")


def substitute(target: str, *, deep: bool) -> None:
    """Puts the class ``module:name`` in place of the standard selector loop, before any test module is imported.

    ``deep``: in place of its base classes too, which the tests of the standard loop's own insides instantiate. The
    tests' loop with a clock of its own stays the standard one: it has no poller, and so cannot be built on ours.
    """
    module, _, name = target.partition(":")
    loop_class = getattr(importlib.import_module(module), name)

    import asyncio
    from asyncio import base_events, selector_events, unix_events

    asyncio.SelectorEventLoop = loop_class
    unix_events.SelectorEventLoop = loop_class
    unix_events._UnixSelectorEventLoop = loop_class
    if sys.version_info >= (3, 13):
        asyncio.EventLoop = loop_class
        unix_events.EventLoop = loop_class
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = loop_class
    if deep:
        importlib.import_module("test.test_asyncio.utils")
        selector_events.BaseSelectorEventLoop = loop_class
        base_events.BaseEventLoop = loop_class
        asyncio.BaseEventLoop = loop_class


class Recorder(unittest.TestResult):
    def __init__(self, out: object) -> None:
        super().__init__()
        self._out = out
        self._seen: dict[str, tuple[str, str]] = {}

    def _line(self, **fields: str) -> None:
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()

    def _note(self, test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        # The first failure of a test stands: a tearDown's, or a second subtest's, would hide it.
        known = self._seen.get(test.id())
        if known is None or known[0] not in FAILED:
            self._seen[test.id()] = (outcome, detail)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._line(start=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        outcome, detail = self._seen.get(test.id(), ("ok", ""))
        self._line(id=test.id(), outcome=outcome, detail=detail)

    def addFailure(self, test, err):
        self._note(test, "failure", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        self._note(test, "error", self._exc_info_to_string(err, test))
        if not isinstance(test, unittest.TestCase):
            # setUpClass or setUpModule: no start and no stop are called for these.
            self._line(id=test.id(), outcome="error", detail=self._exc_info_to_string(err, test))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._note(test, "failure", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        self._note(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        self._note(test, "unexpected success")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("out")
    parser.add_argument("--loop")
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--timeout", type=float, default=0)
    parser.add_argument("--only", action="append", default=[])
    args = parser.parse_args()
    if args.timeout:
        faulthandler.dump_traceback_later(args.timeout, exit=True)
    # A shell starts what runs in its background with SIGINT ignored; some of the tests interrupt themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if args.loop:
        substitute(args.loop, deep=args.deep)
    prefix = f"test.test_asyncio.{args.module}"
    # The tests are run as CPython's own runner runs them: warnings are shown, and are no errors.
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames([f"{prefix}.{name}" for name in args.only] or [prefix])
    with open(args.out, "w") as out:
        suite.run(Recorder(out))
        out.write(json.dumps({"end": True}) + "\n")
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
