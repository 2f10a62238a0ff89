"""A loopback TCP proxy before a server: adds latency, and injects the faults that networks and object stores have."""

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager, suppress

BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Forwards to `target`. `faults` is a list: each GET takes the first; `always` is for those that find none.

    reset   the connection is reset before the server hears of it        busy   503, and the connection ends
    cut     the answer breaks off after `CUT` bytes, connection reset    stall  after `CUT` bytes nothing more comes
    slow    the answer comes in small pieces
    """

    CUT = 5_000  # more than any head of an answer

    def __init__(self, target):
        self.target, self.latency = target, 0.0
        self.faults, self.always, self.gets = [], None, 0
        self.open, self.tasks = set(), set()

    @contextmanager
    def running(self):
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(server), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _accept(self, reader, writer):
        """Notes the connection before any task runs: a task that is cancelled before its first step closes nothing."""
        self.open.add(writer)
        self.tasks.add(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _end(self, server):
        server.close()
        await asyncio.sleep(0.01)  # what was accepted a moment ago has come to `_accept`
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in self.open:
            writer.close()
        await asyncio.sleep(0.01)  # the transports' own last callbacks

    async def _serve(self, reader, writer):
        with suppress(OSError, asyncio.CancelledError):  # the client went away, or the test is over
            await self._forward(reader, writer)

    async def _forward(self, reader, writer):
        above, up = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 20)
        self.open.add(up)
        fault = {"now": None}
        tasks = [
            asyncio.create_task(self._up(reader, up, writer, fault)),
            asyncio.create_task(self._down(above, writer, fault)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for one in (up, writer):
                one.close()

    async def _up(self, reader, up, writer, fault):
        while data := await reader.read(1 << 16):
            if data.startswith(b"GET "):
                self.gets += 1
                fault["now"] = self.faults.pop(0) if self.faults else self.always
            if fault["now"] == "reset":
                return _reset(writer)
            if fault["now"] == "busy":
                writer.write(BUSY)
                return await writer.drain()
            if self.latency:
                await asyncio.sleep(self.latency)
            up.write(data)
            await up.drain()
        return None

    async def _down(self, above, writer, fault):
        sent = 0
        while data := await above.read(1 << 18):
            if fault["now"] in ("cut", "stall"):
                writer.write(data[: self.CUT - sent])
                await writer.drain()
                sent += len(data)
                if sent >= self.CUT and fault["now"] == "stall":
                    await asyncio.sleep(3600)
                if sent >= self.CUT:
                    return _reset(writer)
            elif fault["now"] == "slow":
                for begin in range(0, len(data), 2000):
                    writer.write(data[begin : begin + 2000])
                    await writer.drain()
                    await asyncio.sleep(0.001)
            else:
                writer.write(data)
                await writer.drain()
        return None


def _reset(writer):
    """Closes so that the other side sees a reset, not an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
