"""Damaged records through the reader's C half and the packer's, under AddressSanitizer and UBSan: none may harm them.

    python tests/attacks/fuzz_reader.py [--inputs 10000000] [--seconds 0] [--seed 1] [--quick]

It runs itself again through sanitized.py (which explains ``--quick``). An input is one batch: the one before it with
some of its doubles or bits changed, spliced, cut or made up (mutations.c); or a stretch of a made-up record of a
server, damaged likewise. It goes straight to the decoder, so that no checksum stops it. Some two hundred are a chunk,
which goes to what takes chunks: the packer of spans, counts, steps by task, requests, who waited. Prints how many
inputs went through; status 66 where a sanitizer spoke.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MUTATIONS = "TRACELOOP_MUTATIONS"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so many; 0: when all inputs are through")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="see sanitized.py")
    options = parser.parse_args()
    if MUTATIONS in os.environ:
        Fuzz(options.seed).run(options.inputs, options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        built = os.path.join(folder, f"mutations{sysconfig.get_config_var('EXT_SUFFIX')}")
        include = f"-I{sysconfig.get_paths()['include']}"
        source = os.path.join(HERE, "mutations.c")
        subprocess.run(["gcc", "-O2", "-Wall", "-fPIC", "-shared", include, source, "-o", built], check=True)
        sanitized = [os.path.join(HERE, "sanitized.py"), *(["--quick"] if options.quick else [])]
        # Short stacks of what was allocated, and less of what was freed: a report has the seed, and can be had again.
        environ = os.environ | {MUTATIONS: built, "ASAN_OPTIONS": "malloc_context_size=1:quarantine_size_mb=16"}
        command = [sys.executable, *sanitized, *sys.argv]
        return subprocess.run(command, env=environ, check=False).returncode


def load(name: str, path: str) -> Any:
    """The extension at ``path`` as the module of this name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EDGES = [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 1e9, 1e15, 2.0**53, -(2.0**53), 2.0**63, 2.0**64, 1e300, -1e300, 5e-324]
EDGES += [65536.0, 65537.0, 131073.0, 2.0**32, 2.0**34, 2.0**34 + 1.0, -1024.0, -1030.0, -1e18, 0.5, 100.0]
# Kinds of records that C takes in itself, and runs.
HOT = [-1.0, -2.0, -3.0, -4.0, -5.0, -7.0, -9.0, -10.0, -12.0, -13.0, -14.0, -28.0, -1024.0, -1026.0, 1.0, 65537.0]
HOT += [-17.0, -18.0, -19.0, -20.0, -21.0, -34.0]
TEXTS = [
    b"", b"\x1f\x1f\x1f", b"Task-1\x1f\x1f", b"Task-99999999999999999999\x1f" + b"x" * 50 + b"\x1f{}\x1f",
    b"\xed\xb2\x80\x1f", b"\x1f0a 0b k=v\x1fno end",
]  # fmt: skip
OUTCOME, SITE_LIMIT = 2.0**32, 65536
KINDS = ("soon", "timer", "reader", "writer", "threadsafe", "signal")


class Chance(random.Random):
    """Draws fast, since most of the time would go into drawing."""

    def below(self, limit: int) -> int:
        return int(self.random() * limit)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.random() * len(items))]


def story(generator: Chance, length: int) -> array[float]:
    """A record that makes sense: tasks that begin, wait, hand on and end; timers, descriptors, threads, offloads."""
    chance, below, choice = generator.random, generator.below, generator.pick
    out = array("d")
    add = out.extend
    now, queue, number, alive = choice((0.0, 1000.0)), 0, 0, [65537.0 + SITE_LIMIT]
    while len(out) < 3 * length:
        moved, timers = below(3), below(3) if chance() < 0.3 else 0
        polled, now = now, now + choice((0.0, 1e-5, 0.01))
        if timers:
            add((polled, -1.0, 0.5, now, -2.0, float(moved)))
            for _ in range(timers):
                add((now - 1e-4, -4.0, float(below(len(out)))))
            if moved and chance() < 0.3:
                add((float(queue), -9.0, 0.0))
            add((float(queue), -5.0, float(timers)))
        else:
            moved += not queue
            add((polled, -1024.0 - moved, now))
        queue += moved + timers
        for _ in range(min(queue, 20)):
            number += 1
            first = chance() < 0.1
            if first:
                alive.append(float(SITE_LIMIT * (number + 1) + below(9)))
            ident = choice(alive) if alive and chance() < 0.8 else float(below(9) + 1)
            ident = alive[-1] if first else ident
            ends = ident >= SITE_LIMIT and chance() < 0.05
            if ends and ident in alive:
                alive.remove(ident)
            if chance() < 0.1:
                add((now, choice((-7.0, -8.0)), 0.0))
            if chance() < 0.1:
                add((float(below(4)), -12.0, 0.0))
            if chance() < 0.1:
                add((0.0, -34.0, float(below(9))))
            if chance() < 0.1:
                offload = float(number)
                add((now, -17.0, offload, 1.0, -18.0, 3.0, now, -19.0, offload + OUTCOME, now, -20.0, offload))
                add((now, -21.0, offload))
            queue += choice((-1, -1, 0, 0, 0, 1)) if queue > 1 else 0
            add((now, ident, max(0, queue) + OUTCOME * (4 * first + ends * below(4))))
            now += choice((0.0, 1e-6, 1e-4, 1e-4, 0.2))
        queue = min(queue, 40)
    return out


class Owner:
    """Answers what the ledger of requests asks: every second coroutine is a request, every third a connection."""

    def __init__(self, generator: Chance) -> None:
        self._choice = generator.pick

    def label_of(self, site: int) -> tuple[str, bool]:
        return f"app.f{site}", site != 5

    def kind_of(self, site: int) -> int:
        return (1, 0, 2)[site % 3]

    def look_within(self, *_: object) -> tuple[str, str] | None:
        return self._choice((None, ("app.f:3", ""), ("app.f:3", "app.f")))


class Fuzz:
    """The modules, and what they have been fed with so far. In the process that has the sanitizers."""

    def __init__(self, seed: int) -> None:
        sys.path.insert(0, ROOT)
        from traceloop.exporters.otlp import packing
        from traceloop.exporters.otlp.packing import PackingBuilder
        from traceloop.reading.decoding import choose, decoded, native_model, rare_records
        from traceloop.reading.statistics.histograms import COUNTS, DURATIONS
        from traceloop.record import layout

        self.native: Any = choose.native()
        self.packer: Any = packing.native_packer()
        self.generator = Chance(seed)
        self.choice, self.below = self.generator.pick, self.generator.below
        every = sorted({value for name, value in vars(layout).items() if name.startswith("R_")})
        mutations = load("mutations", os.environ[MUTATIONS])
        numbers = (array("d", EDGES).tobytes(), array("d", HOT * 12 + every).tobytes())
        self.short, self.long = mutations.Source(seed, *numbers), mutations.Source(seed + 1, *numbers)
        self.new_decoded, self.new_rare = native_model.new_decoded, rare_records.RareRecords
        self.span = decoded.SpanContext
        self.buckets = [self.native.Buckets(each.fine) for each in (DURATIONS, COUNTS)]
        self.builder_type = PackingBuilder

        class AnyTimes(PackingBuilder):
            """Packs runs in C whatever their times are."""

            def _align(self, first: float, last: float) -> bool:
                self._scale, self._origin = 1e-3, 1.0
                return True

        self.any_times = AnyTimes
        self.owner = Owner(self.generator)
        self.tally = self.native.Tally(self.buckets[0])
        self.requests = self.native.Requests(self.native.Buckets((0.1, 1.0)))
        self.alive = self.native.AliveTasks({}, 200_000)
        self.builder = self.new_builder()
        self.done = self.rows = self.spans = 0
        self.stories: list[array[float]] = []
        self.of_before: Any = self.fresh()
        self.begin_record()

    def fresh(self) -> Any:
        """An empty chunk."""
        return self.new_decoded(self.native, None)

    def begin_record(self) -> None:
        """Another ring, of whose record nothing is known."""
        self.model = self.native.Model(self.new_rare())
        self.records = 0.0

    def new_builder(self) -> Any:
        from traceloop.exporters.spans.sampling import Sampling
        from traceloop.record.sites import Site

        return (self.any_times if self.below(10) else self.builder_type)(
            lambda number: Site("app", f"f{number}" * self.below(50), "/app.py", number),
            Sampling(self.choice(("all", 0.5, "slow"))),
            self.choice((0, 1_790_000_000 * 10**9, (400 << 52) - 10**9)),
            max_portion_spans=self.choice((1, 5, 8192)),
            native=self.packer,
        )

    def run(self, inputs: int, seconds: float) -> None:
        """Feeds inputs until there were so many, or so many seconds have passed."""
        begun = told = time.monotonic()
        decoded = self.fresh()
        consumers: list[Callable[[Any], None]] = [self.pack, self.count, self.follow, self.add_steps, self.show]
        while self.done < inputs:
            now = time.monotonic()
            if seconds and now - begun > seconds:
                break
            if now - told > 60:
                told = now
                print(f"{self.done:,} inputs after {now - begun:.0f} s", file=sys.stderr, flush=True)
            self.feed(decoded)
            if not self.below(20):
                self.look_around()
            if not self.below(40):
                self.reach_limits()
            if not self.below(3):
                self.model.finish(decoded, self.choice(EDGES), self.choice(EDGES))
            self.model.catch_up(decoded)
            # As the pipeline has it, and in any order.
            for consumer in consumers if self.below(2) else self.generator.sample(consumers, self.below(3)):
                consumer(decoded)
            self.of_before, decoded = decoded, self.fresh()
            if not self.below(20):
                self.begin_record()
        spent = time.monotonic() - begun
        took = f"{self.done:,} inputs in {spent:.0f} s ({time.process_time():.0f} s of CPU)"
        print(f"{took}, {self.rows:,} rows and {self.spans:,} spans", flush=True)

    def feed(self, decoded: Any) -> None:
        """A chunk: two hundred short batches, or a long record that makes sense, of which some are damaged."""
        below = self.below
        if below(16):
            if not below(20):
                self.short.load(array("d", [1.0, 1.0, 0.0] * 8))
            self.records = self.short.feed(self.model, decoded, TEXTS, 200, self.records)
            self.done += 200
            return
        if len(self.stories) < 20:
            self.stories.append(story(self.generator, 100 * 40))
        elif not below(400):
            self.stories.clear()
        damaged = self.choice((1, 5, 10**9))
        record = self.choice(self.stories or [array("d", [1.0, 65537.0, OUTCOME * 4] * 4000)])
        for at in range(100):
            self.long.load(record[at * 120 : at * 120 + 120])
            self.decode(self.long.next(0 if below(damaged) else 1 + below(3)), decoded)

    def decode(self, batch: Any, decoded: Any) -> None:
        model = self.model
        model.begin(batch, self.choice(TEXTS), self.records, self.choice(EDGES))
        while model.decode(decoded) is not None:
            next(model, "")
        self.records += memoryview(batch).nbytes / 24
        self.done += 1

    # -- what takes chunks

    def pack(self, decoded: Any) -> None:
        """Packs as the pipeline does: what makes no sense to Python either is an error that it knows."""
        from traceloop.exporters.spans.slow import SlowRuns

        below = self.below
        decoded.runs.forget_lengths(2.0**33)
        for number in range(below(9)):
            ids = f"{number + 1:032x}", f"{number + 1:016x}"
            decoded.spans.append(self.span(number, *ids, number % 2, "a=b" * below(20)))
        slow = dict.fromkeys((below(len(decoded.runs) + 1) for _ in range(below(4))), None)
        packed = None
        try:
            self.builder.build(decoded, SlowRuns(self.choice((0.1, 0.0, -1.0, 1e300)), slow), below(3))
            packed = self.builder.take_packed()
        except (ValueError, OverflowError, ArithmeticError, struct.error):
            self.builder = self.new_builder()
        for data, spans in packed.portions if packed is not None else ():
            self.spans += len(bytes(data)) and spans
        if not below(8):
            self.builder = self.new_builder()

    def count(self, decoded: Any) -> None:
        """Sums and histograms."""
        native, tally, below = self.native, self.tally, self.below
        cells = self.choice((7, 7, 200))
        tally.add(decoded.runs, lambda kind, ident: (int(ident) % cells, bool(below(2))))
        self.rows += sum(sum(tally.lengths(cell)) for cell, _, _, _ in tally.take_cells())
        self.rows += len(tally.take_histograms())
        if not below(10):
            tally.forget()
        if not below(100):
            bounds = tuple(self.choice(EDGES) for _ in range(below(255)))
            self.tally = native.Tally(native.Buckets(bounds if below(2) else tuple(sorted(bounds))))
        self.rows += len(native.count_iterations(decoded.iterations, *self.buckets))

    def looks(self, idents: Iterable[float]) -> dict[float, array[float]]:
        """Looks at some tasks: moments and chains by turns."""
        return {ident: array("d", [self.choice(EDGES) for _ in range(2 + 2 * self.below(3))]) for ident in idents}

    def follow(self, decoded: Any) -> None:
        """Requests."""
        choice, below = self.choice, self.below
        when = (choice(EDGES), choice(EDGES), choice(EDGES))
        runs = [1, self.model.runs, max(1, self.model.runs - below(300))]
        delivered = {run: (*when, "pool", f"app.f{below(9)}", bool(below(2))) for run in runs}
        looks = self.looks(choice(((), self.alive.idents(), (65537.0, 131073.0))))
        if not below(50):
            for _ in range(below(2000)):
                decoded.requests.append((runs[below(3)], below(65536)))
        if not below(50):
            for task in list(self.of_before.tasks) * below(20):
                decoded.tasks.append(task)
        told = self.requests.feed(
            self.owner,
            decoded.runs,
            decoded.tasks,
            decoded.requests,
            delivered,
            looks,
            choice((math.inf, 1.0)),
            not below(99),
            not below(3),
            choice((-1.0, 1e-3, 1e300)),
        )
        self.rows += len(told[1]) + len(told[2])
        if not below(99):
            self.requests = self.native.Requests(self.native.Buckets(tuple(sorted(map(abs, EDGES[: below(20)])))))

    def reach_limits(self) -> None:
        """Requests once more, by the thousand: tasks of many steps, more tasks and marks than are remembered."""
        chance, below, choice, native = self.generator.random, self.below, self.choice, self.native
        requests = native.Requests(native.Buckets((0.1, 1.0)))
        number, now = 1, 1.0
        idents = [float(SITE_LIMIT * (at + 1) + below(9)) for at in range(choice((2, 5, 30000)))]
        seldom = choice((3, 200, 20000))
        for size in (3, 1000, 3000, below(2000)):
            runs, _, tasks, _, marks, _ = native.new_columns()
            first, few = number, idents[: choice((2, 5, 30))]
            for ident in idents if chance() < 0.5 else few:
                tasks.append((ident, "", number, now, 0, choice((0.0, *few)), chance() < 0.6))
            for _ in range(size):
                ident = choice(few) if below(4) else float(below(9))
                kind = "task" if ident >= SITE_LIMIT else choice(KINDS)
                by, delay = max(0, number - below(20)), choice((-1.0, 0.0, 1e-4, 0.003, 0.1))
                ends = now + choice((0.0, 1e-4, 1e-4, 0.2))
                runs.append((number, now, ends, ident, kind, delay, by, 0, 1, not below(seldom)))
                now = ends + choice((0.0, 0.0, 1e-4, 0.05))
                number += 1
            for at in [*range(first, number)] * choice((0, 1, 8)):
                marks.append((choice((at, first)), below(9)))
            offload = (now, now, choice(EDGES), "pool", f"f{below(500)}", True)
            delivered = dict.fromkeys(range(first, number, 7), offload)
            looks = self.looks(few if below(2) else ())
            arguments = (tasks, marks, delivered, looks, choice((math.inf, now)), 0, below(2), choice((-1.0, 1e300)))
            told = requests.feed(self.owner, runs, *arguments)
            self.rows += len(told[1]) + len(told[2])

    def add_steps(self, decoded: Any) -> None:
        """Tasks that are alive: they begin, step, end; a look has seen them; they are met again."""
        native, below, choice, alive = self.native, self.below, self.choice, self.alive
        begun = [task.ident for task in decoded.tasks][:50]
        idents = [65537.0, 131073.0, choice(EDGES), *begun, *alive.idents()[:50]]
        looks, stood, awaited, circles = (
            self.looks([choice(idents) for _ in range(choice((0, 0, 3, 200)))]) for _ in range(4)
        )

        def step(ident: float, before: float, start: float, name: str, woken: float) -> None:
            self.rows += len(name) + (before <= woken <= start) + (alive.get(ident) is not None) + len(alive.oldest())
            try:
                alive.remove(ident)
            except RuntimeError:  # not while a chunk is taken in
                pass
            looks.pop(ident, None)

        tasks, ends = decoded.tasks, decoded.finished
        if not below(9):  # as though they were of another chunk
            tasks, ends = (tasks, self.of_before.finished) if below(2) else (self.of_before.tasks, ends)
        if not below(20):
            for number in range(below(6000)):
                ident = float(SITE_LIMIT * choice((1, number)) + number * 7 % SITE_LIMIT)
                tasks.append((ident, "name", number, choice(EDGES), 0, float(number), True, choice(EDGES)))
                if below(2):
                    ends.append((ident, below(4), choice(EDGES), number))
        alive.feed(decoded.runs, tasks, ends, looks, stood, awaited, circles, step)
        for _ in range(below(4)):
            alive.begin(choice(idents), choice(EDGES))
            alive.remove(choice(idents))
            totals = alive.totals(below(SITE_LIMIT))
            self.rows += totals.count + len(totals.creators)
        self.rows += len(alive.oldest()) + len(alive.by_site()) + len(alive)
        self.rows += len(tasks.sites(0, len(tasks))) + len(ends.sites(below(len(ends) + 1), len(ends)))
        self.rows += len([*decoded.spans, *decoded.requests])
        self.rows += len(list(tasks)[-50:]) + len(list(ends)) + sum(ends.outcomes())
        if not below(20):
            alive.clear()
        if not below(40):
            self.alive = native.AliveTasks({}, choice((16, 20, 3000, 200_000)))

    def show(self, decoded: Any) -> None:
        """Rows as objects and as columns, and who waited."""
        runs, choice, below = decoded.runs, self.choice, self.below
        for _ in range(4):
            least, most = below(len(runs) + 1), below(len(runs) + 1)
            runs.waited(least, most, below(999), choice(EDGES), choice(EDGES), below(99))
            self.rows += len(runs.longer_before(below(300), choice(EDGES), choice(EDGES), below(300))[0])
        self.rows += len(runs.starts) + len(runs.ends)
        self.rows += len(runs.of_tasks({65537.0: None, 131073.0: None}))
        iterations = decoded.iterations
        self.rows += len(iterations.starts) + len(iterations.ends)
        self.rows += len(iterations.callbacks) + len(iterations.poll_delays)
        if below(5):
            return
        copies = self.native.new_columns()
        for row in list(runs)[-50:]:
            copies[0].append(row)
        for row in list(iterations)[-50:]:
            copies[1].append(tuple(row))
        with memoryview(runs) as shown:  # rows stay where a buffer shows them
            self.rows += len(shown.tobytes()) // 80
            try:
                for _ in range(2000):
                    runs.append((runs[-1][0] + 1, *runs[-1][1:]))
            except (BufferError, IndexError):
                pass

    # -- what asks for doubles and files

    def look_around(self) -> None:
        """Doubles as they lie in a file, and the words of a ring that another process has damaged."""
        below, choice, native = self.below, self.choice, self.native
        batch = memoryview(self.choice((self.short, self.long)).next(1)).cast("B")
        part = batch[below(len(batch)) :]  # ends where the memory does
        if native.checksum(part) != zlib.crc32(part):
            raise AssertionError(f"another checksum than zlib's: {part.tobytes()!r}")
        data = array("d", self.generator.randbytes(8 * below(50)))
        self.rows += native.in_range(memoryview(data)) + native.in_range(self.short.next(1))
        with tempfile.TemporaryFile() as file:
            file.write(self.generator.randbytes(below(200)) + array("d", [choice(EDGES)] * below(9)).tobytes())
            file.flush()
            ring = (file.fileno(), below(300), bool(below(2)), choice(EDGES))
            folders = ((b"/proc", choice((0, os.getpid(), 2**31 - 1))), (b"/nowhere", 0))[: below(3)]
            descriptors = (999_999, -1, file.fileno())[: below(4)]
            until = time.monotonic() + choice((-1.0, 2e-3))
            self.rows += native.rest(descriptors, folders, (ring,) * below(65), 1e-3, until)


if __name__ == "__main__":
    sys.exit(main())
