"""Records that were damaged, by accident or on purpose: readers say what they can, and never fail, hang or grow.

One real record is taken and changed, thousands of times: bytes, lengths, words, batches with a right checksum and
senseless contents, JSON of another shape, files that are none. `TRACELOOP_ATTACKS=200000` makes more of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from tests.helpers.paths import ROOT
from traceloop.cli.export import FORMATS
from traceloop.cli.runs import read, settings_of
from traceloop.exporters.otlp.sender import OtlpSender
from traceloop.exporters.otlp.settings import OtlpSettings
from traceloop.exporters.prometheus.metrics import make_registry
from traceloop.exporters.span_pipeline import make_pipeline
from traceloop.exporters.text.live_view import LiveView
from traceloop.exporters.text.report import report
from traceloop.exporters.text.tables import Style
from traceloop.exporters.timelines.model import NothingToWriteError, Source
from traceloop.reading.follower import RunFollower
from traceloop.reading.new_statistics import make_statistics
from traceloop.record import files, layout

LIMIT_SECONDS = 5
LIMIT_BYTES = 500 << 20
PROGRAM = """
import asyncio, gc, os, time
from traceloop.loop.event_loop import EventLoop

async def waits(lock):
    async with lock:
        await asyncio.sleep(0.001)

async def main():
    loop = asyncio.get_running_loop()
    lock = asyncio.Lock()
    await asyncio.gather(*[waits(lock) for _ in range(20)])
    await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.002) for _ in range(20)])
    gc.collect()
    loop.call_later(0.01, print)
    await asyncio.sleep(0.03)
    time.sleep(0.3)
    await asyncio.sleep(0.1)
    time.sleep(0.3)
    os.kill(os.getpid(), 9)

loop = EventLoop()
loop.run_until_complete(main())
"""
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1.0, 1e-300, 1e300, -1e300, 2.0**31, 2.0**53, 2.0**63, 1e15)
KINDS = [value for name, value in vars(layout).items() if name.startswith("R_")]
DEEP = b"[" * 200_000
JSON = (b"", b"null", b"[]", b"{}", b"1e999", b'"\\ud800"', b"\xff\xfe", DEEP, b'{"a":' * 100_000, b'{"pid": NaN}')


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small record of everything: tasks, offloads, collections, stalls, a kill."""
    path = tmp_path_factory.mktemp("record")
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OTEL_PYTHON_TRACELOOP_RUN_DIR": str(path),
        "OTEL_PYTHON_TRACELOOP_RING_SIZE": "64K",
    }
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], env=environ, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (path / files.RUN).write_text('{"command": ["app"], "settings": {"slow_threshold": 0.1}}')
    statistics, crashes, problems = read(str(path))
    assert crashes and not problems and sum(loop.callbacks.slow_runs for loop in statistics.loops()) >= 1
    return path


def batches(ring: bytearray) -> list[tuple[int, int, int]]:
    """Place, doubles and bytes of text of each batch."""
    found, place = [], layout.DATA_OFFSET
    while place + layout.BATCH.size <= len(ring):
        magic, _, _, count, text, _, _ = layout.BATCH.unpack_from(ring, place)
        if magic != layout.BATCH_MAGIC:
            break
        size = layout.BATCH.size + 8 * count + text
        if place + size > len(ring):  # cut short before
            break
        found.append((place, count, text))
        place += size + -size % layout.BATCH_ALIGN
    return found


def sign(ring: bytearray, place: int, count: int, text: int) -> None:
    """Gives a changed batch its right checksum."""
    end = place + layout.BATCH.size + 8 * count + text
    crc = zlib.crc32(memoryview(ring)[place + layout.BATCH_CRC_START : end])
    struct.pack_into("<I", ring, place + 4, crc)


class Attack:
    """Changes one record in one of many ways. All that is drawn comes from the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        (self.process,) = (path for path in folder.iterdir() if files.parse_process_name(path.name))

    def make(self) -> None:
        for _ in range(self.random.choice((1, 1, 2, 5))):
            self.random.choice(self.WAYS)(self)

    def _ring(self, change: Callable[[bytearray], None]) -> None:
        rings = sorted(self.process.glob("*.ring"))
        if rings:
            path = self.random.choice(rings)
            if not files.is_file(path):
                return
            ring = bytearray(path.read_bytes())
            if len(ring) > layout.DATA_OFFSET:
                change(ring)
                path.write_bytes(ring)

    def flip(self) -> None:
        """Bytes of any file."""
        path = self.random.choice(sorted(each for each in self.folder.rglob("*") if files.is_file(each)))
        data = bytearray(path.read_bytes())
        for _ in range(self.random.randrange(1, 20)):
            if data:
                data[self.random.randrange(min(len(data), 20_000))] = self.random.randrange(256)
        path.write_bytes(data)

    def cut(self) -> None:
        """A file cut short, or blown up."""
        path = self.random.choice(sorted(each for each in self.folder.rglob("*") if files.is_file(each)))
        size = path.stat().st_size
        os.truncate(path, self.random.choice((0, size // 2, self.random.randrange(size + 1), size + 100_000, 1 << 25)))

    def header(self) -> None:
        """A ring's header and words."""

        def change(ring: bytearray) -> None:
            for _ in range(self.random.randrange(1, 8)):
                if self.random.random() < 0.2:
                    ring[self.random.randrange(72)] = self.random.randrange(256)
                else:
                    at = layout.WORDS_OFFSET + 8 * self.random.randrange(layout.WORDS)
                    struct.pack_into("<d", ring, at, self.random.choice((*SPECIAL, self.random.uniform(0, 1e5))))

        self._ring(change)

    def numbers(self) -> None:
        """Records of senseless numbers, in batches that check."""

        def change(ring: bytearray) -> None:
            found = batches(ring)
            for place, count, text in self.random.sample(found, min(len(found), self.random.randrange(1, 6))):
                for _ in range(self.random.randrange(1, 12)):
                    if count:
                        index = self.random.randrange(count)
                        values = KINDS if index % 3 == 1 else SPECIAL
                        value = self.random.choice((*values, self.random.uniform(-1e6, 1e6)))
                        struct.pack_into("<d", ring, place + layout.BATCH.size + 8 * index, value)
                if self.random.random() < 0.3:
                    struct.pack_into("<d", ring, place + layout.BATCH.size - 8, self.random.choice(SPECIAL))
                sign(ring, place, count, text)

        self._ring(change)

    def order(self) -> None:
        """Sequence numbers and counts of records that lie."""

        def change(ring: bytearray) -> None:
            for place, count, text in batches(ring):
                if self.random.random() < 0.3:
                    struct.pack_into("<Q", ring, place + 8, self.random.choice((0, 5, 1 << 40, (1 << 64) - 1)))
                    sign(ring, place, count, text)
                if self.random.random() < 0.2:
                    struct.pack_into("<Q", ring, place + 24, self.random.choice((0, 1 << 40, (1 << 64) - 1)))
                    sign(ring, place, count, text)

        self._ring(change)

    def text(self) -> None:
        """Text of another shape: events that are no events, names that are JSON."""

        def change(ring: bytearray) -> None:
            for place, count, text in batches(ring):
                if text and self.random.random() < 0.5:
                    start = place + layout.BATCH.size + 8 * count
                    old = bytes(ring[start : start + text])
                    new = self._other(old)[:text].ljust(text, self.random.choice((b" ", b"\x1f", b"\0", b"[")))
                    ring[start : start + text] = new
                    sign(ring, place, count, text)

        self._ring(change)

    def _other(self, old: bytes) -> bytes:
        numbers = (b"1e999", b"-1", b"null", b"NaN", b"[]", b'{"a":1}', b'"x"', b"99999999999999999999", b"-Infinity")
        way = self.random.randrange(4)
        if way == 0:
            return DEEP
        if way == 1:
            return b'{"kind":"stack"}\x1f' * 50
        parts = old.split(b",")
        for _ in range(self.random.randrange(1, 6)):
            index = self.random.randrange(len(parts))
            name, colon, _ = parts[index].rpartition(b":")
            parts[index] = name + colon + self.random.choice(numbers)
        return b",".join(parts)

    def described(self) -> None:
        """process.json, run.json and the other small files."""
        names = (files.PROCESS, files.USAGE, files.EXEC, files.ENDED, files.CRASH, files.DUMP, files.DUMP_ADVERT)
        path = self.process / self.random.choice(names)
        if self.random.random() < 0.3:
            path = self.folder / files.RUN
        if files.is_file(path) or not os.path.lexists(path):
            data: dict[str, object] = {}
            for name in ("pid", "command", "python", "realtime_ns", "settings", "slow_patterns", "directory"):
                data[name] = self.random.choice((None, [], {}, -1, 1e308, "x" * 5000, [[1]], "\ud800", 10**400, True))
            stack = 'Thread 0x1:\n  File "x\0", line 99999999999 in y\nFatal Python error: \x1b[2Jtraceloop: forged\n'
            path.write_bytes(self.random.choice((*JSON, json.dumps(data).encode(), stack.encode() * 50)))

    def sites(self) -> None:
        """The log of sites."""
        lines = (
            b'[1,"m","q","f",1e400]', b'[-1,"m","q","f",1]', b'[true,"m","q","f",1]', b'[70000,"a","b","c",1]', b"[1]",
            b'[2,"\\u001b[2J","\\ud800","f\\n",7]', b'[3,{},[],null,4]', DEEP, b"x" * (2 << 20), b'[4,"a","b","c",-5]',
        )  # fmt: skip
        path = self.process / files.SITES
        if files.is_file(path):
            old = path.read_bytes().splitlines()
            self.random.shuffle(old)
            path.write_bytes(b"\n".join([*old[: self.random.randrange(len(old) + 1)], *self.random.sample(lines, 4)]))

    def replace(self) -> None:
        """Something else in a file's place: a pipe, a device, a folder, nothing."""
        path = self.random.choice([path for path in sorted(self.folder.rglob("*")) if path != self.process])
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        way = self.random.randrange(5)
        if way == 0:
            os.mkfifo(path)
        elif way == 1:
            path.symlink_to(self.random.choice(("/dev/zero", "/dev/full", "/proc/self/mem", "/", path.name)))
        elif way == 2:
            path.mkdir()
        elif way == 3:
            path.write_bytes(self.random.randbytes(5000))

    WAYS = (flip, cut, header, header, numbers, numbers, numbers, order, text, text, described, sites, replace)


class NullSender(OtlpSender):
    """Packs and queues as the real one does; what has been queued counts as sent."""

    def _send(self, batch: list[Any]) -> tuple[int, str]:
        return sum(item.spans for item in batch), ""


def export(folder: str) -> list[str]:
    """Follows the record as the collector does, spans and all; what it says."""
    said: list[str] = []
    settings = settings_of(folder)
    statistics = make_statistics(settings)
    sender = NullSender(OtlpSettings.from_environ({}, "http://localhost:1", said.append), said.append)
    pipeline = make_pipeline(settings, statistics, said.append, {}, [sender])
    follower = RunFollower(folder, statistics)
    with statistics.lock:
        for chunks in follower.chunks(last=True):
            pipeline.take(chunks, time.monotonic())
        for process in follower.processes.values():
            pipeline.end_process(process)
    pipeline.shutdown(10)
    generate_latest(make_registry(statistics))
    return said


def write(folder: str, which: str) -> None:
    """The record as a file for another tool."""
    statistics = make_statistics(settings_of(folder))
    module = importlib.import_module(f"traceloop.exporters.{FORMATS[which].module}")
    writer = module.make(io.BytesIO(), Source(statistics, ""))
    follower = RunFollower(folder, statistics)
    with statistics.lock:
        for chunks in follower.chunks(last=True):
            writer.take(chunks)
        for process in follower.processes.values():
            writer.end_process(process)
        with contextlib.suppress(NothingToWriteError):
            writer.finish()


def attack(record: Path, place: Path, seeds: range) -> None:
    """Reads and reports changed records; what fails, hangs or grows says by which seed."""

    def too_long(number: int, frame: object) -> None:
        raise TimeoutError(f"no end after {LIMIT_SECONDS} s")

    style = Style(False, 100)
    failed: dict[int, str] = {}
    before = signal.signal(signal.SIGALRM, too_long)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = 0.0
    try:
        for seed in seeds:
            folder = place / "attacked"
            shutil.copytree(record, folder)
            Attack(folder, seed).make()
            signal.setitimer(signal.ITIMER_REAL, 4 * LIMIT_SECONDS)
            begun = time.process_time()
            try:
                statistics, crashes, problems = read(str(folder))
                text = report(statistics, width=100) + "\n".join(LiveView(statistics).lines(style))
                list(statistics.samples())
                said = export(str(folder)) if seed % 3 == 0 else []
                if seed % 6 == 1:
                    write(str(folder), list(FORMATS)[seed // 6 % len(FORMATS)])
                for line in (*crashes, *problems, *said, *text.split("\n")):
                    assert line.isprintable() and len(line) < 5000, line
                spent = time.process_time() - begun
                slowest = max(slowest, spent)
                assert spent < LIMIT_SECONDS, f"took {spent:.1f} s"
            except Exception as error:
                failed[seed] = f"{type(error).__name__}: {error}"[:300]
                if len(failed) > 20:
                    break
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                shutil.rmtree(folder)
            used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) << 10
            assert used < LIMIT_BYTES, f"seed {seed}: {used >> 20} MiB more than before"
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{len(seeds)} records, the slowest took {slowest:.2f} s")
    assert not failed


@pytest.mark.parametrize("part", range(20))
def test_no_damaged_record_fails_a_reader(record: Path, tmp_path: Path, part: int) -> None:
    attack(record, tmp_path, range(part * 60, part * 60 + 60))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_nor_does_one_of_fifty_thousand(record: Path, tmp_path: Path, part: int) -> None:
    count = int(os.environ.get("TRACELOOP_ATTACKS", "50000")) // 10
    attack(record, tmp_path, range(100_000 + part * count, 100_000 + (part + 1) * count))
