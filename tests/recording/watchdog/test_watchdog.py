"""The watchdog beside the program: what it does not take for a stall, and what it leaves as it was."""

import os
import re
import signal

import pytest

from tests.helpers.observed import Observed, observe, program, start, wait_for
from traceloop.reading.new_statistics import make_statistics
from traceloop.settings import Settings

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


def run(tmp_path, text, **options):
    return observe(tmp_path, program(tmp_path, text), **options)


def test_an_idle_loop_is_no_stall(tmp_path):
    observed = run(
        tmp_path,
        """
async def main():
    await asyncio.sleep(0.5)             # one long poll
    for _ in range(30):
        await asyncio.sleep(0.012)       # a poll just beyond what the loop lingers
    for _ in range(30):
        await asyncio.sleep(0.008)       # and below it
run(main())
# A loop that others turn (nest_asyncio does so): it publishes nothing while it polls.
loop = EventLoop()
loop.call_later(0.4, loop.stop)
class Turned(EventLoop):
    def _run_once(self):
        super()._run_once()
loop.close()
loop = Turned()
loop.call_later(0.4, loop.stop)
loop.run_forever()
loop.close()
""",
    )
    assert observed.slow() == []
    assert observed.index.unfinished() == []
    assert observed.errors == ""


def test_what_a_turn_has_found_brings_about_no_other_turn(tmp_path):
    """While records wait to be written, no turn is a quiet one."""
    observed = run(
        tmp_path,
        """
from traceloop.recording.watchdog.watchdog import Watchdog
left, whole = [], Watchdog._look_at_all
def turn(self):
    due = whole(self)
    left.append(len(self._sampler.outbox.pending))
    return due
Watchdog._look_at_all = turn
async def main():
    while len(left) < 3:
        await asyncio.sleep(0.02)
    tell(left=left[:3])
run(main())
""",
    )
    assert observed.facts["left"] == [0, 0, 0]


def test_many_short_handles_are_congestion(tmp_path):
    observed = run(
        tmp_path,
        """
def short():
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0.2    # a busy machine makes even a short one long
    for _ in range(600):
        loop.call_soon(short)
    await asyncio.sleep(0.1)
run(main())
""",
    )
    assert observed.index.unfinished() == []
    stacks = [info for info in observed.slow() if info.stacks]
    assert [info.callback for info in stacks if info.callback != "__main__.short"] == []
    (congestion,) = observed.index.congestion.values()
    assert congestion.iterations == 1
    assert congestion.callbacks >= 600
    assert congestion.longest >= 0.6


def test_a_stopped_process_is_no_slow_callback(tmp_path):
    process = start(
        tmp_path / "run",
        program(
            tmp_path,
            """
async def main():
    for _ in range(60):
        end = time.monotonic() + 0.03
        while time.monotonic() < end:    # busy, so that it is stopped in the middle of a callback
            pass
        await asyncio.sleep(0)
    tell(done=True)
async def begin():
    asyncio.get_running_loop().slow_callback_duration = 0.6
    await asyncio.sleep(0.2)
    tell(ready=True)
    await main()
    await asyncio.sleep(0.2)
run(begin())
""",
        ),
    )
    assert process.stdout.readline() == '{"ready": true}\n'
    os.kill(process.pid, signal.SIGSTOP)
    observed = Observed(tmp_path / "run")
    wait_for(lambda: _state(process.pid) == "T", "the stop")
    try:
        wait_for(lambda: _heartbeat_age(observed) > 2.0, "a stale heartbeat")
        assert observed.probe.asked == 0
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=120)
    observed.poll(last=True)
    assert observed.index.late.get("suspended", 0) > 1.5
    assert observed.metric("asyncio_eventloop_slow_callbacks_total") == 0


def _state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def _heartbeat_age(observed):
    import time

    from traceloop.record import layout

    observed.poll()
    for follower in observed.follower.processes.values():
        for ring in follower.rings.values():
            if not ring.is_loop:
                return time.monotonic() - ring.reader.word(layout.W_HEARTBEAT)
    return 0.0


def test_loops_in_several_threads(tmp_path):
    observed = run(
        tmp_path,
        """
def one():
    time.sleep(0.3)
def two():
    time.sleep(0.3)
async def block(function):
    await asyncio.sleep(0.05)
    function()
    await asyncio.sleep(0.2)
threads = [threading.Thread(target=run, args=(block(function),)) for function in (one, two)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
    )
    assert sorted(info.culprit for info in observed.slow()) == ["__main__.one", "__main__.two"]
    assert {info.ring for info in observed.slow()} == {0, 1}


def test_each_slow_run_of_a_loop_that_is_run_again_and_again_is_found(tmp_path):
    observed = run(
        tmp_path,
        """
async def short():
    await asyncio.sleep(0)
async def first():
    time.sleep(0.25)
async def second():
    time.sleep(0.25)
loop = EventLoop()
for coroutine in (short, first, short, short, second, short):
    loop.run_until_complete(coroutine())
loop.close()
""",
    )
    assert [(info.culprit, info.parts.cause) for info in observed.slow()] == [
        ("__main__.first", "off_cpu"),
        ("__main__.second", "off_cpu"),
    ]


def test_what_the_program_sees_stays_as_it_was(tmp_path):
    observed = run(
        tmp_path,
        """
class Argument:
    alive = 0
    def __init__(self):
        Argument.alive += 1
    def __del__(self):
        Argument.alive -= 1
def keep(argument):
    time.sleep(0.25)
async def main():
    descriptors = os.listdir("/proc/self/fd")
    await asyncio.sleep(0.1)
    asyncio.get_running_loop().call_soon(keep, Argument())
    await asyncio.sleep(0.35)
    tell(alive=Argument.alive)
    tell(threads=[thread.name for thread in threading.enumerate()], count=threading.active_count())
    free = os.open("/dev/null", os.O_RDONLY)
    tell(low=free < 50)
    pid = os.fork()                      # beside a thread it would warn, and warnings are errors here
    if pid == 0:
        tell(child_threads=len(os.listdir("/proc/self/task")))
        os._exit(0)
    os.waitpid(pid, 0)
    await asyncio.sleep(0.05)            # from 3.15 on the thread comes back with the loop's next flush
    time.sleep(0.25)                     # watched again
tell(before=len(os.listdir("/proc/self/task")))
run(main())
tell(handlers=[signal.getsignal(number) is signal.SIG_DFL for number in range(34, 65)].count(False))
""",
    )
    facts = observed.facts
    assert facts["before"] == 1
    assert facts["alive"] == 0
    assert facts["threads"] == ["MainThread"]
    assert facts["count"] == 1
    assert facts["low"]
    assert facts["child_threads"] == 1
    assert facts["handlers"] == 0
    assert [info.culprit for info in observed.slow()] == ["__main__.keep", "__main__.main"]


def test_the_thread_is_gone_at_a_fork_right_after_the_last_loop(tmp_path):
    observed = run(
        tmp_path,
        """
from traceloop.recording.watchdog.process_watchdog import _before_fork
from traceloop.recording.watchdog.watchdog import Watchdog
inner = Watchdog._run
def goes_late(*arguments):
    inner(*arguments)
    time.sleep(0.1)  # as if it had to wait for a processor
Watchdog._run = goes_late
async def main():
    await asyncio.sleep(0)
counts = []
for _ in range(3):
    run(main())
    _before_fork()
    counts.append(len(os.listdir("/proc/self/task")))
tell(counts=counts)
""",
    )
    # What fork's warning counts, from 3.12 on.
    assert observed.facts["counts"] == [1, 1, 1]


def test_a_fork_in_a_child_does_not_write_its_parents_record(tmp_path):
    observed = run(
        tmp_path,
        """
def child():
    time.sleep(0.25)
async def main(function):
    await asyncio.sleep(0.05)
    function()
    await asyncio.sleep(0.15)
def parent():
    pid = os.fork()
    if pid == 0:
        asyncio._set_running_loop(None)
        code = 1
        try:
            run(main(child))
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    tell(status=status)
run(main(parent))
""",
    )
    assert observed.facts["status"] == 0
    by_pid = {}
    for process in observed.statistics.processes.values():
        from traceloop.reading.stalls import parts as stall_statistics

        index = stall_statistics.stalls_of(process).index
        by_pid[process.pid] = [index.lookup(*key).culprit for key in index.slow_runs()]
    assert sorted(by_pid.values()) == [["__main__.child"], ["__main__.parent"]]


def test_thresholds_by_pattern(tmp_path):
    observed = run(
        tmp_path,
        """
def batch_import():
    time.sleep(0.3)
def request():
    time.sleep(0.3)
async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.05)
    loop.call_soon(batch_import)
    await asyncio.sleep(0.4)
    loop.call_soon(request)
    await asyncio.sleep(0.4)
    loop.slow_callback_duration = 1.0
    loop.call_soon(request)
    await asyncio.sleep(0.4)
run(main())
""",
        OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD="__main__.batch_*=1.0",
    )
    index = observed.index
    assert [index.label(seen.ident) for seen in index._seen.values()] == ["__main__.request"]
    # In library use the lines go through the logger, which without a handler says warnings on stderr.
    assert observed.errors.count("traceloop: stall: __main__.request") == 1
    assert "batch" not in observed.errors


def test_a_loop_in_which_every_run_is_slow_is_looked_at_on_and_on(tmp_path):
    observed = run(
        tmp_path,
        """
def first():
    time.sleep(0.2)
def second():
    time.sleep(0.2)
async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0
    await asyncio.sleep(0.05)
    loop.call_soon(first)
    loop.call_soon(second)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
run(main())
""",
    )
    stalled = {info.callback: info for info in observed.slow() if info.stacks}
    assert stalled["__main__.first"].culprit == "__main__.first"
    assert stalled["__main__.second"].culprit == "__main__.second"


def test_log_lines(tmp_path):
    text = """
async def main():
    await asyncio.sleep(0.05)
    time.sleep(0.3)
    await asyncio.sleep(0.15)
run(main())
tell(threads=threading.active_count())
"""
    observed = run(tmp_path, text, OTEL_PYTHON_TRACELOOP_ROOT_PID="1")
    start_line, end_line = observed.errors.splitlines()
    place = f"{tmp_path / 'program.py'}:12"
    assert start_line.startswith(f"traceloop: stall: __main__.main ({place}) blocks the loop of MainThread in process ")
    text, _, seconds = end_line.removesuffix(" s").rpartition(" ")
    assert text == "traceloop: stall over: __main__.main blocked the loop for about"
    assert 0.25 <= float(seconds) <= 0.5
    assert observed.facts["threads"] == 1


def test_the_line_of_a_notice_is_the_culprits_own(tmp_path):
    text = """
import json
async def refresh():
    json.dumps([{"i": i, "p": i * 1.1} for i in range(200_000)], indent=1, separators=(",", ":"))
async def main():
    json.encoder.c_make_encoder = None  # the standard library's own lines run
    await refresh()
run(main())
"""
    observed = run(tmp_path, text, OTEL_PYTHON_TRACELOOP_ROOT_PID="1")
    line = observed.errors.splitlines()[0]
    place = re.escape(f"{tmp_path / 'program.py'}:12")
    called = r"(, in json\.\S+ at \S+json/\S+\.py:\d+)?"
    assert re.search(rf"stall: __main__\.refresh \({place}{called}\) within", line), line


def test_a_fake_clock_is_not_watched(tmp_path):
    observed = run(
        tmp_path,
        """
class Faked(EventLoop):
    def time(self):
        return time.monotonic() - 1000.0
with asyncio.Runner(loop_factory=Faked) as runner:
    runner.run(asyncio.sleep(0.3))
""",
    )
    assert observed.index.unfinished() == []
    assert observed.errors == ""


THRESHOLDS = "0.2,__main__.import_*=1.5,__main__.lookup=0.03"


def test_a_pattern_matches_the_culprit_too(tmp_path):
    observed = run(
        tmp_path,
        """
def import_all():
    time.sleep(0.4)
def lookup():
    time.sleep(0.07)
def other():
    time.sleep(0.3)
async def handler(work):
    work()
async def main():
    await asyncio.sleep(0.05)
    for work in (import_all, lookup, other):
        await asyncio.create_task(handler(work))
        await asyncio.sleep(0.15)
run(main())
""",
        OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD=THRESHOLDS,
        OTEL_PYTHON_TRACELOOP_ROOT_PID="1",
    )
    errors = observed.errors
    settings = Settings.from_environ({"OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD": THRESHOLDS})
    observed = Observed(tmp_path / "run", statistics=make_statistics(settings))
    observed.poll(last=True)
    for culprit, count in (("import_all", 0), ("lookup", 1), ("other", 1)):
        labels = {"callback": "__main__.handler", "culprit": f"__main__.{culprit}"}
        assert observed.metric("asyncio_slow_callbacks_total", **labels) == count, culprit
    # A busy machine may make others slow; not for as long as a pattern allows.
    culprits = {observed.index.culprit(*key) for key in observed.index.slow_runs()}
    assert {"__main__.lookup", "__main__.other"} <= culprits and "__main__.import_all" not in culprits
    assert "__main__.import_all" not in errors
    assert "stall: __main__.other" in errors


def test_a_collection_is_known_by_whom_it_interrupted_though_nobody_else_had_the_gil(tmp_path):
    observed = run(
        tmp_path,
        """
sys.setswitchinterval(30)  # so that the watchdog cannot look before it is over
gc.disable()
garbage = [[] for _ in range(1_200_000)]  # a tenth of a second of collecting on a fast machine
for item in garbage:
    item.append(item)

def collect():
    gc.collect()

async def main():
    global garbage, item
    garbage = item = None
    asyncio.get_running_loop().slow_callback_duration = 0.01
    await asyncio.sleep(0.2)
    collect()

run(main())
""",
    )
    (info,) = [info for info in observed.slow() if info.parts.gc > 0.0]
    assert (info.callback, info.culprit, info.parts.cause) == ("__main__.main", "__main__.collect", "gc")
    assert [frame[3] for frame in info.stacks[0].frames] == ["main", "collect"]


def test_a_run_that_forks_and_waits_for_the_child_is_known_by_its_line(tmp_path):
    """From 3.13 on the watchdog's thread may not be started again before fork has counted the threads."""
    observed = run(
        tmp_path,
        """
def start_and_wait():
    pid = os.fork()
    if not pid:
        time.sleep(0.5)
        os._exit(0)
    os.waitpid(pid, 0)

async def main():
    for _ in range(3):
        start_and_wait()
        await asyncio.sleep(0.1)

run(main())
""",
    )
    (seen, *_) = [info for info in observed.slow() if info.callback == "__main__.main" and info.stacks]
    assert seen.culprit == "__main__.start_and_wait"
    assert seen.stacks[0].frames[-1][3] == "start_and_wait"


def test_who_waits_for_an_offload_is_named_not_what_delivers_it(tmp_path):
    observed = run(
        tmp_path,
        """
begun = threading.Event()

async def waits_for_it():
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)

async def blocks():
    begun.set()
    time.sleep(0.3)

async def main():
    waiting = asyncio.create_task(waits_for_it())
    await asyncio.sleep(0.05)
    await asyncio.create_task(blocks())
    await waiting

run(main())
""",
    )
    victims = {victim: entry for (_, culprit, victim), entry in observed.index.matrix.items() if "blocks" in culprit}
    assert victims["__main__.waits_for_it"].handles == 1
    assert 0.2 < victims["__main__.waits_for_it"].exact < 0.4
    assert "traceloop.recording.offloads.offload.Offload.deliver" not in victims
