"""Mutated batches through the reader's C half and the packer's, under AddressSanitizer and UBSan: none may harm them.

    python tests/attacks/fuzz_reader.py [--inputs 10000000] [--seconds 0] [--seed 1]

It builds the extensions anew into a temporary folder, and runs itself again with the sanitizers loaded. An input is one
batch of up to 24 records: the one before it with some of its doubles or bits changed, spliced, cut or made up. Every
fiftieth batch is also packed into spans, every thousandth counted, grouped by task and turned into rows. Prints how
many inputs went through; ends with status 1 where a sanitizer spoke.
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import os
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from array import array
from types import ModuleType

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
READER = os.path.join(ROOT, "traceloop", "reading", "decoding", "native")
PACKER = os.path.join(ROOT, "exporters", "otlp", "native")
SHARED = os.path.join(ROOT, "traceloop", "record", "native")
FLAGS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so many; 0: when all inputs are through")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--extension", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.extension:
        fuzz(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        built = build(folder, "_reader", READER)
        build(folder, "_packer", PACKER)
        libraries = [
            subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
            for name in ("libasan.so", "libubsan.so")
        ]
        # What the interpreter keeps until its end is not of interest; its own allocator would hide where a block ends.
        environ = os.environ | {
            "LD_PRELOAD": " ".join(map(str.strip, libraries)),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",
        }
        return subprocess.run([sys.executable, *sys.argv, "--extension", built], env=environ, check=False).returncode


def build(folder: str, name: str, folder_of_sources: str) -> str:
    """Builds an extension with the sanitizers; returns its path."""
    built = os.path.join(folder, f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    includes = [f"-I{path}" for path in (sysconfig.get_paths()["include"], SHARED, READER)]
    sources = sorted(glob.glob(os.path.join(folder_of_sources, "*.c")))
    subprocess.run(["gcc", *FLAGS, "-fPIC", "-shared", *includes, *sources, "-o", built], check=True)
    return built


def load(name: str, path: str) -> ModuleType:
    """The extension at ``path`` as the module of this name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Owner:
    """Answers what the ledger of requests asks: every second coroutine is a request, every third a connection."""

    def __init__(self, generator: random.Random) -> None:
        self._choice = generator.choice

    def label_of(self, site: int) -> tuple[str, bool]:
        return f"app.f{site}", site != 5

    def kind_of(self, site: int) -> int:
        return (1, 0, 2)[site % 3]

    def look_within(self, *_: object) -> tuple[str, str] | None:
        return self._choice((None, ("app.f:3", ""), ("app.f:3", "app.f")))


def _change(records: array[float], generator: random.Random, edges: list[float], kinds: list[float]) -> None:
    """Changes, adds or removes something of the records, three numbers each."""
    choice, below = generator.choice, generator.randrange
    how, at = below(8), below(len(records))
    if how < 3:
        records[at] = choice(edges)
    elif how < 5:
        records[at // 3 * 3 + 1] = choice(kinds)
    elif how == 5:
        (bits,) = struct.unpack("<Q", struct.pack("<d", records[at]))
        (value,) = struct.unpack("<d", struct.pack("<Q", bits ^ 1 << below(64)))
        records[at] = value if value - value == 0.0 else 1.0
    elif how == 6 and len(records) < 72:
        records.extend((below(100) / 8, choice((1.0, 65537.0, 65538.0, 131073.0)), float(below(4))))
    elif len(records) > 6:
        del records[at // 3 * 3 : at // 3 * 3 + 3]


def fuzz(options: argparse.Namespace) -> None:
    """In the process that has the sanitizers: feeds inputs to the module at ``options.extension``."""
    sys.path.insert(0, ROOT)
    from traceloop.exporters.otlp.packing import PackingBuilder
    from traceloop.exporters.spans.sampling import Sampling
    from traceloop.exporters.spans.slow import SlowRuns
    from traceloop.reading.decoding.decoded import Decoded, SpanContext
    from traceloop.reading.decoding.rare_records import RareRecords
    from traceloop.reading.statistics.histograms import DURATIONS
    from traceloop.record import layout
    from traceloop.record.sites import Site

    native = load("traceloop.reading.decoding._reader", options.extension)
    packer = load("traceloop.exporters.otlp._packer", options.extension.replace("_reader", "_packer"))
    every = sorted({value for name, value in vars(layout).items() if name.startswith("R_")})
    hot = [-1.0, -2.0, -3.0, -4.0, -5.0, -7.0, -9.0, -10.0, -12.0, -13.0, -14.0, -28.0, -1024.0, -1026.0, 1.0, 65537.0]
    hot += [-17.0, -18.0, -19.0, -20.0, -21.0]
    # Mostly those that C takes in itself.
    kinds = hot * 12 + every
    edges = [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 1e9, 1e15, 2.0**53, -(2.0**53), 2.0**63, 2.0**64, 1e300, -1e300, 5e-324]
    edges += [65536.0, 65537.0, 131073.0, 2.0**32, 2.0**34, 2.0**34 + 1.0, -1024.0, -1030.0, -1e18, 0.5, 100.0]
    texts = [[], ["", "", ""], ["Task-1", ""], ["Task-99999999999999999999", "x" * 50, "{}"], ["\udc80"]]
    generator = random.Random(options.seed)
    choice, below = generator.choice, generator.randrange
    records = array("d", [1.0, 1.0, 0.0] * 8)
    tally = native.Tally(native.Buckets(DURATIONS.fine))
    begun = time.monotonic()
    done = rows = spans = 0

    def fresh() -> tuple[object, Decoded]:
        decoded = Decoded(None)
        decoded.runs, decoded.iterations, decoded.tasks, decoded.finished = native.new_columns()
        return native.Model(RareRecords()), decoded

    class AnyTimes(PackingBuilder):
        """Packs runs in C whatever their times are."""

        def _align(self, first: float, last: float) -> bool:
            self._scale, self._origin = 1e-3, 1.0
            return True

    def new_builder() -> PackingBuilder:
        return choice((PackingBuilder, AnyTimes, AnyTimes))(
            lambda number: Site("app", f"f{number}" * below(50), "/app.py", number),
            Sampling(choice(("all", 0.5, "slow"))),
            choice((0, 1_790_000_000 * 10**9, (400 << 52) - 10**9)),
            max_portion_spans=choice((1, 5, 8192)),
            native=packer,
        )

    def pack(decoded: Decoded) -> int:
        """Packs as the pipeline does: what makes no sense to Python either is an error that it knows."""
        nonlocal builder
        decoded.runs.forget_lengths(2.0**33)
        decoded.spans += [
            SpanContext(number, f"{number + 1:032x}", f"{number + 1:016x}", number % 2, "a=b" * below(20))
            for number in range(below(9))
        ]
        slow = dict.fromkeys((below(len(decoded.runs) + 1) for _ in range(below(4))), None)
        packed = None
        try:
            builder.build(decoded, SlowRuns(choice((0.1, 0.0, -1.0, 1e300)), slow), below(3))
            packed = builder.take_packed()
        except (ValueError, OverflowError, ArithmeticError, struct.error):
            builder = new_builder()
        return sum(len(bytes(data)) and spans for data, spans in packed.portions) if packed is not None else 0

    owner = _Owner(generator)
    requests = native.Requests((0.1, 1.0))
    alive = native.AliveTasks({}, 200_000)
    builder = new_builder()
    model, decoded = fresh()
    while done < options.inputs and not (options.seconds and time.monotonic() - begun > options.seconds):
        for _ in range(below(1, 5)):
            _change(records, generator, edges, kinds)
        view = memoryview(array("d", records))
        model.begin(view, choice(texts), choice((done * 8, done, 0, 1e15)), choice(edges))
        while model.decode(decoded) is not None:
            next(model, "")
        if not below(50):
            model.lose_place(decoded)
        done += 1
        if not done % 50 and done % 1000:
            spans += pack(decoded)
            decoded = fresh()[1]
            if not below(30):
                builder = new_builder()
        if not done % 1000:
            model.catch_up(decoded)
            model.finish(decoded, choice(edges), choice(edges))
            for _ in range(8):
                least, most = below(len(decoded.runs) + 1), below(len(decoded.runs) + 1)
                decoded.runs.waited(least, most, below(99), choice(edges), choice(edges), below(9))
            tally.add(decoded.runs, lambda kind, ident: (int(ident) % 7, bool(below(2))))
            cells = tally.take_cells()
            rows += len(cells) + sum(sum(tally.lengths(cell)) for cell, _, _, _ in cells)
            rows += len(tally.take_histograms())
            rows += len(list(decoded.runs)) + len(list(decoded.iterations)) + len(decoded.runs.of_ident(1.0))
            rows += len(decoded.runs.starts) + len(decoded.iterations.callbacks)
            delivered = {below(300): (choice(edges), choice(edges), choice(edges), "pool", "app.f", bool(below(2)))}
            requests.feed(
                owner,
                decoded.runs,
                decoded.tasks,
                decoded.requests,
                delivered,
                choice(({}, {65537.0: None, 131073.0: None})),
                not below(9),
                not below(9),
                choice((-1.0, 1e-3, 1e300)),
            )
            if not below(9):
                requests = native.Requests((0.1, 1.0))
            idents = [65537.0, 131073.0, choice(edges)]
            looks, stood, awaited = ({ident: [choice(edges), 1.0] for ident in idents[: below(4)]} for _ in range(3))
            alive.feed(decoded.runs, decoded.tasks, decoded.finished, looks, stood, awaited, lambda *step: None)
            if not below(3):
                alive.begin(choice(idents), choice(edges))
            if not below(3):
                alive.remove(choice(idents))
            rows += len(alive.idents()) + len(alive.oldest()) + len(alive.by_site()) + len(alive)
            rows += len(list(map(alive.get, alive.idents()))) + len(list(decoded.tasks)) + len(list(decoded.finished))
            rows += len(decoded.tasks.sites(0, below(len(decoded.tasks) + 1))) + sum(decoded.finished.outcomes())
            if not below(9):
                alive.clear()
            if not below(9):
                alive = native.AliveTasks({}, choice((16, 20, 200_000)))
            rows += len(decoded.runs.of_tasks({65537.0: None, 131073.0: None}))
            rows += len(decoded.runs.longer_before(below(300), choice(edges), choice(edges), below(300))[0])
            if not below(10):
                tally.forget()
            model, decoded = fresh()
    seconds = time.monotonic() - begun
    print(f"{done:,} inputs in {seconds:.0f} s, {rows:,} rows and {spans:,} spans; no report", flush=True)


if __name__ == "__main__":
    sys.exit(main())
