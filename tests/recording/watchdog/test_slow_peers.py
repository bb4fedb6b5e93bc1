"""Peers that do not read: from a program whose clients stop reading, to its metrics and its report."""


import pytest

from tests.helpers.cores import CORES
from tests.helpers.kept_report import report_of
from traceloop.reading.decoding.decoded import Decoded, Event
from traceloop.reading.statistics.peers import Paused, Peers

PROGRAM = """
import asyncio, json, socket, sys
import traceloop
from traceloop.recording.process import current_process

async def until_looked_at():
    # Paused for longer than the threshold of the finding, and the watchdog has looked at them and at the tasks.
    reported = asyncio.Event()
    loop = asyncio.get_running_loop()
    process = current_process()
    write = process.process_write
    def seen(records, text, now, *more):
        write(records, text, now, *more)
        for each in text:
            if '"kind":"peers"' in each and any(paused[3] > 2.5 for paused in json.loads(each)["paused"]):
                loop.call_soon_threadsafe(reported.set)
    process.process_write = seen
    await reported.wait()

async def push(reader, writer):
    try:
        while True:
            writer.write(bytes(1_000_000))
            await writer.drain()
    except ConnectionError:
        pass

async def main():
    server = await asyncio.start_server(push, "127.0.0.1", 0)
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(2)]
    await until_looked_at()
    for client in clients:
        client.close()
    server.close()

traceloop.install()
with traceloop.start(metrics=False, spans="off", record=sys.argv[1]):
    asyncio.run(main())
"""


@pytest.mark.parametrize("core", CORES)
def test_the_finding_names_who_waits_for_the_peers(tmp_path, core):
    report = report_of(tmp_path, PROGRAM, core)
    (found,) = [each for each in report["verdict"]["findings"] if each["kind"] == "slow-peer"]
    line = PROGRAM.splitlines().index("            await writer.drain()") + 1
    assert found["title"].endswith(f"app.py:{line} in push waits for them")
    assert any(each.startswith("2 stream connections paused at most, ") for each in found["evidence"])
    assert any(f"app.py:{line}, in asyncio.StreamWriter.drain" in each for each in found["evidence"])


def _decoded(**data):
    decoded = Decoded(None)
    decoded.events.append(Event(10.0, 1, {"kind": "peers", "ring": 0, "at": 10.0, **data}))
    return decoded


def test_what_is_paused_now_adds_up_over_loops_and_passes_with_time():
    peers = Peers()
    peers.feed(_decoded(paused=[["stream", 2, 300, 1.5]]))
    peers.feed(_decoded(ring=1, paused=[["stream", 1, 50, 4.0], ["tls", 1, 7, 0.5]]))
    assert peers.now(11.0) == {"stream": Paused(3, 350, 5.0), "tls": Paused(1, 7, 1.5)}
    peers.feed(_decoded(ring=1, at=12.0, paused=[]))
    assert peers.now(12.0) == {"stream": Paused(2, 300, 3.5)}
    assert peers.now(100.0) == {}
    assert peers.most == {"stream": Paused(3, 350, 4.0), "tls": Paused(1, 7, 0.5)}
    values = {(each.name, each.labels): each.value for each in peers.metrics()}
    assert values["asyncio_transport_paused_bytes", (("transport", "tls"),)] == 0


@pytest.mark.parametrize(
    "data",
    [{}, {"paused": 3}, {"paused": [[1]]}, {"paused": [["stream", -1, 0, 0.0]]}, {"paused": [["other", 1, 1, 1.0]]}],
)
def test_an_event_that_makes_no_sense_is_passed_over(data):
    peers = Peers()
    peers.feed(_decoded(**data))
    assert peers.now(10.0) == {} == peers.most
