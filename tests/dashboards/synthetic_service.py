"""An hour of a service that does not exist, as OpenMetrics text for `promtool tsdb create-blocks-from`.

Every series of the catalogue is in it, with the labels that docs/telemetry.md gives it, so that panels and rules can be
asked without waiting an hour. What happens: load comes and goes; a handler blocks in the middle third; timers leak
from then on; an executor is full in the last third; one process of two restarts in the middle, and blocks once
before it accepts connections.
"""

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field

from tests.helpers.dashboard_files import catalogue

STEP = 15
BUCKETS = [d * 10.0**e for e in range(-5, 1) for d in (1, 2.5, 5)] + [10.0]
COUNTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
KINDS = {"task": 0.7, "soon": 0.12, "reader": 0.12, "writer": 0.02, "timer": 0.03, "threadsafe": 0.01}
CALLBACKS = {"shop.web.handle": 0.5, "shop.feed.parse": 0.3, "shop.prices.refresh": 0.15, "shop.cache.sweep": 0.05}
CULPRITS = [("uvicorn.protocols.run_asgi", "shop.prices.load"), ("uvicorn.protocols.run_asgi", "shop.pdf.render"),
            ("shop.cache.sweep", "shop.cache.sweep")]  # fmt: skip
AT_STARTUP = ("shop.web.main", "shop.db.connect")
LOCATIONS = {"shop.prices.load": "/srv/shop/prices.py:31", "shop.pdf.render": "/srv/shop/pdf.py:88",
             "shop.cache.sweep": "/srv/shop/cache.py:17", "shop.db.connect": "/srv/shop/db.py:12"}  # fmt: skip
RECENT_SECONDS = 120
# Coroutine and site, with the share of the tasks that wait there.
WAITS = {("shop.web.handle", "shop.db.fetch:58 asyncio.Queue.get"): 0.5,
         ("shop.web.handle", "shop.prices.price:44 asyncio.Lock.acquire"): 0.1,
         ("shop.feed.run", "shop.feed.run:21 asyncio.StreamReader.readline"): 0.3}  # fmt: skip

# Handlers, with their share of the requests; and seconds of one request by part.
REQUESTS = {"shop.web.show": 0.7, "shop.web.buy": 0.3}
PARTS = {"running": 0.006, "ready": 0.004, "wait_network": 0.02}


@dataclass
class Process:
    """One process of the service. slow: end (Unix time), callback with culprit, duration (s); start-up left out."""

    born: float
    timers: float = 40.0
    slow: list[tuple[float, tuple[str, str], float]] = field(default_factory=list)


class Store:
    """Counters that keep counting and gauges that are set, by name and labels."""

    def __init__(self):
        self.values = defaultdict(float)
        self.lines = defaultdict(list)

    def add(self, name, labels, amount):
        self.values[name, tuple(sorted(labels.items()))] += amount

    def set(self, name, labels, value):
        self.values[name, tuple(sorted(labels.items()))] = value

    def drop(self, name, labels):
        self.values.pop((name, tuple(sorted(labels.items()))), None)

    def observe(self, name, labels, value, count=1, bounds=BUCKETS):
        for bound in [*bounds, math.inf]:
            le = "+Inf" if bound == math.inf else repr(float(f"{bound:.6g}"))
            self.add(name + "_bucket", labels | {"le": le}, count if value <= bound else 0)
        self.add(name + "_count", labels, count)
        self.add(name + "_sum", labels, value * count)

    def forget(self, **labels):
        for key in [key for key in self.values if labels.items() <= dict(key[1]).items()]:
            del self.values[key]

    def scrape(self, at):
        for (name, labels), value in self.values.items():
            text = ",".join(f'{key}="{value}"' for key, value in labels)
            self.lines[name].append(f"{name}{{{text}}} {value:.9g} {at}\n")

    def text(self):
        """OpenMetrics: each family together, with its type."""
        out = []
        for name, kind in (catalogue() | {"up": "gauge", "scrape_duration_seconds": "gauge"}).items():
            out.append(f"# TYPE {name.removesuffix('_total') if kind == 'counter' else name} {kind}\n")
            parts = [name + part for part in ("_bucket", "_count", "_sum")] if kind == "histogram" else [name]
            for part in parts:
                assert part in self.lines, f"in the catalogue, but not in the hour: {part}"
                out += self.lines.pop(part)
        assert not self.lines, f"not in the catalogue: {sorted(self.lines)}"
        return "".join(out) + "# EOF\n"


def hour(end, seconds=3600, job="shop"):
    """OpenMetrics text of the `seconds` up to `end` (Unix time)."""
    chance, store = random.Random(9), Store()
    target = {"job": job, "instance": "10.0.0.7:9464"}
    start = end - seconds
    processes = {"0": Process(start - 86400), "1": Process(start - 86400)}
    for at in range(int(start), int(end) + 1, STEP):
        part = (at - start) / seconds
        store.set("up", target, 1)
        store.set("scrape_duration_seconds", target, 0.012 + 0.002 * chance.random())
        if 0.5 <= part < 0.5 + STEP / seconds:
            store.forget(process="1")
            processes["1"] = Process(at - 3, timers=5.0)
        for slot, state in processes.items():
            _process(store, chance, target | {"process": slot}, slot, part, at, state)
        store.add("traceloop_collector_cpu_seconds_total", target, STEP * 0.06 * (1 + 0.2 * chance.random()))
        store.set("traceloop_collector_resident_memory_bytes", target, 62e6 + 1e6 * part)
        store.scrape(at)
    return store.text()


def _slow_callbacks(store, chance, loop, slow, at, state):
    """Counts slow runs of (callback, culprit); returns how long they blocked the loop (s)."""
    startup = at - state.born < STEP
    store.add("asyncio_eventloop_slow_callbacks_total", loop, 0)
    blocked = 0.0
    for callback, culprit in slow:
        took, who = 0.2 + chance.random(), {"callback": callback, "culprit": culprit}
        blocked += took
        store.add("asyncio_eventloop_slow_callbacks_total", loop, 1)
        store.add("asyncio_slow_callbacks_total", loop | who, 1)
        store.add("asyncio_slow_callback_time_seconds_total", loop | who, took)
        store.add("asyncio_slow_callbacks_startup_total", loop | who, startup)
        store.set("asyncio_slow_callback_info", loop | who | {"location": LOCATIONS[culprit]}, 1)
        store.add("asyncio_callback_blocked_seconds_total", loop | who, took * took * 6)
        store.observe("asyncio_callback_duration_seconds", loop | {"kind": "task"}, took)
        if not startup:
            state.slow.append((at, (callback, culprit), took))
    for callback, culprit in [*CULPRITS, AT_STARTUP]:
        who = {"callback": callback, "culprit": culprit}
        recent = [took for end, by, took in state.slow if by == (callback, culprit) and end > at - RECENT_SECONDS]
        if recent:
            store.set("asyncio_slow_callback_longest_seconds", loop | who, max(recent))
        else:
            store.drop("asyncio_slow_callback_longest_seconds", loop | who)
    return blocked


def _executors(store, chance, process, full, blocked):
    for executor, workers in (("default", 8), ("pdf", 2)):
        of, busy = process | {"executor": executor}, workers if full and executor == "pdf" else workers * 0.3
        store.set("asyncio_executor_queue_length", of, 14 + round(6 * chance.random()) if busy == workers else 0)
        store.set("asyncio_executor_active", of, round(busy))
        store.set("asyncio_executor_workers", of, workers)
        store.set("asyncio_executor_max_workers", of, workers)
        run = 0.3 if executor == "pdf" else 0.02
        calls = max(1, round(busy * STEP / run))
        store.observe("asyncio_executor_queue_duration_seconds", of, 2.1 if busy == workers else 1e-4, calls)
        store.observe("asyncio_executor_run_duration_seconds", of, run * (0.5 + chance.random()), calls)
        store.observe("asyncio_executor_return_delay_seconds", of, 2e-4 + blocked / 4, calls)
        for callback in ("shop.pdf.render",) if executor == "pdf" else ("shop.files.read", "socket.getaddrinfo"):
            store.add("asyncio_executor_runs_total", of | {"callback": callback}, calls)
            store.add("asyncio_executor_time_seconds_total", of | {"callback": callback}, calls * run)
            waited = calls * 2.1 if busy == workers else 0
            store.add("asyncio_executor_blocked_seconds_total", of | {"callback": callback}, waited)


def _process(store, chance, process, slot, part, at, state):
    loop = process | {"loop": "MainThread"}
    load = (900 if slot == "0" else 700) * (1 + 0.4 * math.sin(6.3 * part) + 0.1 * chance.random())
    handles = load * STEP
    blocking = 1 / 3 < part < 2 / 3 and slot == "0"
    slow = [CULPRITS[0]] * chance.choice((0, 1, 1, 2)) if blocking else []
    slow += [CULPRITS[1]] * (chance.random() < 0.03) + [CULPRITS[2]] * (chance.random() < 0.01)
    slow += [AT_STARTUP] * (at - state.born < STEP)
    blocked = _slow_callbacks(store, chance, loop, slow, at, state)
    for kind, share in KINDS.items():
        for weight, duration in ((0.6, 2e-5), (0.3, 9e-5), (0.09, 8e-4), (0.01, 6e-3)):
            store.observe("asyncio_callback_duration_seconds", loop | {"kind": kind},
                          duration * (1 + chance.random()), round(handles * share * weight))  # fmt: skip
        late = round(load * blocked * share)
        for weight, delay in ((0.8, 8e-5), (0.17, 8e-4), (0.03, 4e-3)):
            store.observe("asyncio_callback_schedule_delay_seconds", loop | {"kind": kind},
                          delay * (1 + chance.random()), round(handles * share * weight))  # fmt: skip
        for _ in range(10 if late else 0):
            store.observe("asyncio_callback_schedule_delay_seconds", loop | {"kind": kind},
                          blocked * chance.random(), late // 10)  # fmt: skip
    active = min(STEP * 0.97, handles * 2.4e-4 + blocked)
    for callback, share in CALLBACKS.items():
        store.add("asyncio_callback_runs_total", loop | {"callback": callback}, handles * share)
        store.add("asyncio_callback_time_seconds_total", loop | {"callback": callback}, active * 0.95 * share)
    store.add("asyncio_eventloop_time_seconds_total", loop | {"state": "active"}, active)
    store.add("asyncio_eventloop_time_seconds_total", loop | {"state": "idle"}, STEP - active)
    store.add("asyncio_eventloop_iterations_total", loop, handles / 2.5)
    store.observe(
        "asyncio_eventloop_iteration_duration_seconds", loop, 4e-4 * (1 + chance.random()), round(handles / 2.5)
    )
    store.observe(
        "asyncio_eventloop_iteration_callbacks", loop, chance.choice((1, 2, 3, 8)), round(handles / 2.5), COUNTS
    )
    store.observe("asyncio_eventloop_poll_delay_seconds", loop, 6e-5 * (1 + chance.random()), round(handles / 3))
    store.set("asyncio_eventloop_running_seconds", loop, blocked if blocked > 1.2 else 0)
    for callback, culprit in slow[-1:]:
        who = {"callback": callback, "culprit": culprit}
        store.set("asyncio_eventloop_stalled_seconds", loop | who, blocked if blocked > 1.2 else 0)
    store.set("asyncio_slow_callback_threshold_seconds", loop, 0.1)
    store.set("asyncio_tasks", loop, 60 + load / 20)
    store.add("asyncio_tasks_created_total", loop, load / 5 * STEP)
    for outcome, share in (("result", 0.96), ("exception", 0.01), ("cancelled", 0.03), ("abandoned", 0)):
        store.add("asyncio_tasks_finished_total", loop | {"outcome": outcome}, load / 5 * STEP * share)
    for error in ("not_awaited", "not_retrieved", "callback"):
        store.add("asyncio_swallowed_errors_total", process | {"error": error, "callback": "shop.notify"}, load / 1e4)
    for (callback, site), share in WAITS.items():
        waiting, where = round((60 + load / 20) * share), {"callback": callback, "site": site}
        store.set("asyncio_task_waiting", process | where, waiting)
        store.add("asyncio_task_waiting_seconds_total", process | where, waiting * STEP)
    for request, share in REQUESTS.items():
        answered = round(load * STEP * share)
        store.observe("asyncio_request_duration_seconds", process | {"request": request}, 0.03, answered)
        for spent_on, seconds in PARTS.items():
            where = process | {"request": request, "part": spent_on}
            store.add("asyncio_request_time_seconds_total", where, seconds * answered)
    state.timers += STEP * (6 if part > 1 / 3 and slot == "0" else 0)
    store.set("asyncio_timers", loop | {"state": "live"}, state.timers)
    store.set("asyncio_timers", loop | {"state": "cancelled"}, 30 + 40 * ((at // STEP) % 8) / 8)
    store.add("asyncio_timer_heap_compactions_total", loop, (at // STEP) % 8 == 0)
    store.add("asyncio_transport_bytes_total", loop | {"direction": "in"}, load * 300 * STEP)
    store.add("asyncio_transport_bytes_total", loop | {"direction": "out"}, load * 2100 * STEP)
    store.set("asyncio_transports", loop, 40 + load / 30)
    for transport, share in (("stream", 0.7), ("tls", 0.2), ("datagram", 0.05), ("pipe", 0.05)):
        store.set("asyncio_transports_by_kind", loop | {"transport": transport}, round((40 + load / 30) * share))
    store.add("asyncio_transport_paused_seconds_total", loop, 0.3 * chance.random())
    paused = process | {"transport": "stream"}
    store.set("asyncio_transports_paused", paused, round(3 * part))
    store.set("asyncio_transport_paused_bytes", paused, 500_000 * part)
    store.set("asyncio_transport_paused_longest_seconds", paused, 8 * part)
    for result, share in (("accepted", 0.01), ("refused", 0)):
        store.add("asyncio_server_connections_total", loop | {"result": result}, handles * share)
    store.add("asyncio_tls_handshakes_total", loop, round(handles * 0.002))
    store.add("asyncio_tls_handshake_seconds_total", loop, round(handles * 0.002) * 0.006)
    for heap in ("timer", "memory"):
        store.add("asyncio_heap_growth_events_total", process | {"heap": heap},
                  heap == "timer" and slot == "0" and part > 0.4 and (at // STEP) % 20 == 0)  # fmt: skip
    store.set("cpython_memory_allocated_blocks", process, 4e5 + 2e5 * part)
    for generation, often, pause in (("0", 2, 8e-5), ("1", 0.2, 7e-4), ("2", 0.07, 0.03)):
        of = process | {"generation": generation}
        store.observe("cpython_gc_pause_duration_seconds", of, pause * (1 + chance.random()), round(often * STEP))
        store.add("cpython_gc_collected_objects_total", of, often * 90 * STEP)
        store.add("cpython_gc_uncollectable_objects_total", of, 0)
    for callback, share in CALLBACKS.items():
        store.add("asyncio_callback_gc_pause_seconds_total", process | {"callback": callback}, 0.002 * STEP * share)
    store.set("process_resident_memory_bytes", process, 95e6 + (60e6 * part if slot == "0" else 0))
    store.add("process_cpu_seconds_total", process, active * 0.9)
    store.add("process_cpu_throttled_seconds_total", process, active * 0.1)
    store.set("process_open_fds", process, 60 + load / 30)
    store.set("process_start_time_seconds", process, state.born)
    _executors(store, chance, process, part > 2 / 3 and slot == "0", blocked)
    store.add("traceloop_records_total", process, handles)
    store.add("traceloop_records_dropped_total", process, 0)
    target = {key: process[key] for key in ("job", "instance")}
    store.add("traceloop_spans_exported_total", target, handles)
    store.add(
        "traceloop_spans_dropped_total", target | {"reason": "queue_full"}, 400 * chance.random() if blocking else 0
    )
    command = {
        "pid": "4711" if slot == "0" else str(int(state.born) % 30000),
        "python": "3.13.5",
        "version": "0.1.0",
        "core": "c",
        "reader": "c",
        "command": "shop/web.py",
    }
    store.set("traceloop_process_info", process | command, 1)
