"""Protocols and servers that the network tests talk to."""

import asyncio
import socket


class Notes:
    """A list of what a protocol was told, and a way to wait for something in it."""

    def __init__(self):
        self.events = []
        self.data = bytearray()
        self.transport = None
        self._changed = asyncio.Event()

    def note(self, *event):
        self.events.append(event)
        self._changed.set()

    def names(self):
        return [event[0] for event in self.events]

    async def until(self, condition):
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    async def lost(self):
        await self.until(lambda notes: "lost" in notes.names())
        return next(event[1] for event in self.events if event[0] == "lost")

    async def received(self, count):
        await self.until(lambda notes: len(notes.data) >= count)
        return bytes(self.data)


class Peer(Notes, asyncio.Protocol):
    keep_open = False

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.data += data
        self.note("data")

    def eof_received(self):
        self.note("eof")
        return self.keep_open

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exc):
        self.note("lost", exc)


class KeepOpenPeer(Peer):
    keep_open = True


class EchoPeer(Peer):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class BufferedPeer(Notes, asyncio.BufferedProtocol):
    def __init__(self, size=64):
        super().__init__()
        self.buffer = bytearray(size)

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def get_buffer(self, sizehint):
        # A view: sslproto slices what it is given, and a slice of a bytearray is a copy.
        return memoryview(self.buffer)

    def buffer_updated(self, count):
        self.data += self.buffer[:count]
        self.note("data")

    def eof_received(self):
        self.note("eof")

    def connection_lost(self, exc):
        self.note("lost", exc)


class DatagramPeer(Notes, asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def datagram_received(self, data, addr):
        self.note("datagram", data, addr)

    def error_received(self, exc):
        self.note("error", type(exc))

    def connection_lost(self, exc):
        self.note("lost", exc)

    async def datagrams(self, count):
        await self.until(lambda notes: notes.names().count("datagram") >= count)
        return [event[1:] for event in self.events if event[0] == "datagram"]


async def pair(loop, left=Peer, right=Peer, family=socket.AF_UNIX):
    """Two protocols at the two ends of one connection. Unix sockets by default, or TCP."""
    if family == socket.AF_UNIX:
        a, b = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            a = socket.create_connection(listener.getsockname())
            b, _ = listener.accept()
    _, one = await loop.create_connection(left, sock=a)
    _, two = await loop.connect_accepted_socket(right, b)
    return one, two


async def raw_pair(loop, protocol=Peer, family=socket.AF_INET):
    """A protocol, and a bare non-blocking socket at the other end."""
    if family == socket.AF_UNIX:
        a, b = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            a = socket.create_connection(listener.getsockname())
            b, _ = listener.accept()
    b.setblocking(False)
    _, peer = await loop.create_connection(protocol, sock=a)
    return peer, b
