"""Real programs, each with one trouble, and each with its healthy twin: the same work, done as the remedy says.

Of a twin it is only asked that the trouble in question is not found: a busy machine has troubles of its own.
"""

from __future__ import annotations

import re

import pytest

from tests.helpers.observed import Observed, observe, program, start, wait_for
from tests.helpers.paths import CERTIFICATE
from tests.reading.findings.troubled_programs import TROUBLES
from traceloop.reading.findings import thresholds
from traceloop.reading.findings.verdict import verdict
from traceloop.record import layout

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


def findings(tmp_path, text, threshold="0.1"):
    observed = observe(tmp_path, program(tmp_path, text), OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD=threshold)
    return verdict(observed.statistics).findings


BLOCKING = """
import hashlib, logging, queue, socket, sqlite3, subprocess, tempfile

SECONDS = 0.3
FOLDER = tempfile.mkdtemp()
LATER = queue.SimpleQueue()

def do_later():
    while True:
        action = LATER.get()
        time.sleep(SECONDS)
        action()

# Before any loop: on a busy machine it takes long until a thread has started, and who starts it waits for that.
threading.Thread(target=do_later, daemon=True).start()

def sleeps():
    time.sleep(SECONDS)

def receives():
    ours, theirs = socket.socketpair()
    LATER.put(lambda: theirs.send(b"x"))
    ours.recv(1)

def starts_a_process():
    subprocess.run([sys.executable, "-c", f"import time; time.sleep({SECONDS})"])

def takes_a_lock():
    held = threading.Lock()
    held.acquire()
    LATER.put(held.release)
    held.acquire()

def waits_for_an_event():
    event = threading.Event()
    LATER.put(event.set)
    event.wait()

def reads_a_file():
    path = FOLDER + "/fifo"
    os.mkfifo(path)
    LATER.put(lambda: open(path, "w").close())
    open(path).read()

def imports():
    with open(FOLDER + "/slow_module.py", "w") as file:
        file.write(f"import time\\ntime.sleep({SECONDS})\\n")
    sys.path.append(FOLDER)
    import slow_module

def logs():
    reading, writing = os.pipe()
    stream = open(writing, "w")
    logger = logging.getLogger("full")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(stream))
    LATER.put(lambda: os.read(reading, 200_000))
    logger.warning("x" * 100_000)

def queries():
    first = sqlite3.connect(FOLDER + "/db", isolation_level=None, check_same_thread=False)
    first.execute("create table t (x)")
    first.execute("begin exclusive")
    second = sqlite3.connect(FOLDER + "/db", timeout=10)
    LATER.put(first.rollback)
    second.execute("insert into t values (1)")

def computes():
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        sum(range(100))

def hashes():
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_500_000)

FUNCTIONS = (sleeps, receives, starts_a_process, takes_a_lock, waits_for_an_event, reads_a_file, imports, logs, queries,
             computes, hashes)

async def main():
    for function in FUNCTIONS:
        CALL
        await asyncio.sleep(0.05)

run(main())
"""
KINDS = {
    "sleeps": "sleep",
    "receives": "socket",
    "starts_a_process": "subprocess",
    "takes_a_lock": "lock",
    "waits_for_an_event": "lock",
    "reads_a_file": "file",
    "logs": "logging",
    "queries": "database",
    "computes": "cpu",
    "hashes": "hashing",
}


def is_the_machines(info):
    """Whether a run waited for a processor for so long that its code need not be to blame."""
    return info.parts.processor_wait > (info.end - info.start) / 3


def test_what_blocks_the_loop_is_told_by_kind(tmp_path):
    text = BLOCKING.replace("CALL", "function()")
    observed = observe(tmp_path, program(tmp_path, text), OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD="0.1")
    found = verdict(observed.statistics).findings
    told = {each.who.function.removeprefix("__main__."): each for each in found if each.who is not None}
    starved = {info.culprit.removeprefix("__main__.") for info in observed.slow() if is_the_machines(info)}
    for name in KINDS.keys() - starved:
        assert told[name].detail == KINDS[name], (name, told[name])
    assert any(each.detail == "import" for each in found)
    assert "computes" in starved or told["computes"].kind == "cpu-on-loop"
    assert told["sleeps"].kind == "blocking-call"
    lines = (tmp_path / "program.py").read_text().splitlines()
    assert lines[told["sleeps"].who.line - 1].strip() == "time.sleep(SECONDS)"
    assert told["sleeps"].title.endswith(f"program.py:{told['sleeps'].who.line} in sleeps blocks the loop: it sleeps")


def test_a_run_that_goes_on_is_told_apart_from_those_that_ended(tmp_path):
    text = """
def hold(seconds):
    time.sleep(seconds)

async def main():
    for seconds in (0.3, 0.3, 600):
        hold(seconds)
        await asyncio.sleep(0)

run(main())
"""
    process = start(tmp_path / "run", program(tmp_path, text))
    observed = Observed(tmp_path / "run")

    def harm():
        observed.poll()
        return [each.harm for each in verdict(observed.statistics).findings if "in hold" in each.title]

    # The last run that ended counts when the next has: not yet.
    goes_on = r"in [23] runs, .* at most; one goes on, for [\d.]+ s so far"
    try:
        wait_for(lambda: re.search(goes_on, " ".join(harm())), "the third run")
    finally:
        process.kill()
        process.communicate()
    observed.poll(last=True)
    (told,) = harm()
    assert re.search(r"in 3 runs, .* at most; one was never seen to end, after [\d.]+ m?s or more", told)


def test_the_same_in_threads_blocks_nothing(tmp_path):
    found = findings(tmp_path, BLOCKING.replace("CALL", "await asyncio.to_thread(function)"))
    names = [
        each.who.function for each in found if each.kind in ("blocking-call", "cpu-on-loop") and each.who is not None
    ]
    assert not {name.removeprefix("__main__.") for name in names} & {*KINDS, "imports"}


def test_the_longest_part_of_a_run_is_named_and_not_the_first(tmp_path):
    found = findings(
        tmp_path,
        """
def price():
    time.sleep(0.15)

def parse():
    time.sleep(0.9)

async def main():
    await asyncio.sleep(0.01)
    price()
    parse()

run(main())
""",
    )
    assert found[0].who.function == "__main__.parse"


STORM = """
import ssl

server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_side.load_cert_chain(CERTIFICATE)
client_side = ssl.create_default_context(cafile=CERTIFICATE)

async def serve(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()

async def ask(address, number):
    reader = None
    for _ in range(number):
        if reader is None or AGAIN:
            reader, writer = await asyncio.open_connection(*address, ssl=client_side, server_hostname="localhost")
        writer.write(b"x")
        await reader.read(1)
        if AGAIN:
            writer.transport.abort()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    await asyncio.gather(*(ask(server.sockets[0].getsockname(), 55) for _ in range(4)))
    server.close()

run(main())
"""


@pytest.mark.parametrize("again", [True, False])
def test_tls_connections_that_are_made_over_and_over(tmp_path, again):
    text = STORM.replace("CERTIFICATE", repr(str(CERTIFICATE))).replace("AGAIN", str(again))
    observed = observe(tmp_path, program(tmp_path, text))
    ((loop, seconds),) = [(each, sum(each.times(0.0))) for each in observed.statistics.loops()]
    found = [each for each in verdict(observed.statistics).findings if each.kind == "connection-storm"]
    # Both ends are this program's. A machine ten times slower makes fewer a second than are a finding.
    fast = loop.counter(layout.W_TLS_HANDSHAKES) >= thresholds.STORM_RATE * seconds
    assert [each.detail for each in found] == ["tls"] * (again and fast)
    assert loop.counter(layout.W_TLS_HANDSHAKES) == (440 if again else 8)


def test_each_way_in_which_errors_are_swallowed(tmp_path):
    text, wrong, _ = TROUBLES["errors-swallowed"]
    for name, value in wrong.items():
        text = text.replace(name, value)
    before = "    await asyncio.sleep(0.1)\n"
    text = text.replace(before, "    asyncio.get_running_loop().call_soon(fails)\n" + before)
    found = {each.detail: each for each in findings(tmp_path, text) if each.kind == "errors-swallowed"}
    assert sorted(found) == ["callback", "not_awaited", "not_retrieved"]
    names = {detail: each.who.function.rpartition(".")[2] for detail, each in found.items() if each.who is not None}
    # Whoever made a coroutine and left it is named, not the coroutine.
    assert names == {"callback": "fails", "not_awaited": "main", "not_retrieved": "notify"}


def test_tasks_that_a_loop_run_by_hand_leaves_at_its_end_are_a_note(tmp_path):
    text = """
async def background():
    while True:
        await asyncio.sleep(0.02)

async def main():
    kept.extend(asyncio.create_task(background()) for _ in range(5))
    await asyncio.sleep(0.1)

kept = []
loop = EventLoop()
loop.run_until_complete(main())
kept.clear()
loop.close()
"""
    (found,) = [each for each in findings(tmp_path, text) if each.kind == "lost-tasks"]
    assert (found.detail, found.severity, found.harm) == ("left", "note", "5 of 5 tasks were destroyed with it")


# Where the trouble is that no callback is slow, a busy machine must not make one so.
THRESHOLDS = {"loop-saturated": "2", "congested": "0.3"}


# This wants a machine with nothing else to do: threads that fight for the GIL are not seen where they wait for a
# processor.
NEED_THE_MACHINE = {"gil-contention"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in NEED_THE_MACHINE else kind for kind in TROUBLES]
)
def test_trouble_and_healthy_twin(tmp_path, kind):
    text, wrong, right = TROUBLES[kind]
    for number, (names, expected) in enumerate(((wrong, True), (right, False))):
        filled = text
        for name, value in names.items():
            filled = filled.replace(name, value)
        folder = tmp_path / str(number)
        folder.mkdir()
        kinds = [each.kind for each in findings(folder, filled, THRESHOLDS.get(kind, "0.1"))]
        assert (kind in kinds) == expected, kinds
