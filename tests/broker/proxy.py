"""A network between a client and its broker, with the faults that a network can have."""

import asyncio
from urllib.parse import urlsplit

CHUNK = 1 << 16


class Proxy:
    """Passes bytes between its clients and the broker at `url`."""

    def __init__(self, url: str) -> None:
        self._broker = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._lost: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()
        self.breaks_on: bytes | None = None
        """Bytes that break the connection of the client that sends them."""
        self.breaks_once = False
        self.refuses = False
        """Who connects is cut off at once."""
        self._flows = asyncio.Event()
        self._flows.set()

    async def start(self) -> str:
        """The URL at which clients reach the broker through it."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login = self._broker.netloc.rpartition("@")[0]
        return self._broker._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.break_all()
        for pipe in self._pipes:
            pipe.cancel()
        if self._pipes:
            await asyncio.wait(self._pipes)

    def break_for_clients(self) -> None:
        """Clients lose their connections, and the broker hears nothing of it until `break_lost`."""
        for client, broker in self._pairs:
            client.transport.abort()
            self._lost.append(broker)
        self._pairs.clear()

    def break_lost(self) -> None:
        """The broker notices which connections were lost."""
        lost, self._lost = self._lost, []
        for broker in lost:
            broker.transport.abort()

    def freeze(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._flows.clear()

    def thaw(self) -> None:
        """All that waits gets through."""
        self._flows.set()

    def break_all(self) -> None:
        """Both sides lose every connection."""
        self.break_for_clients()
        self.break_lost()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refuses:
            client.transport.abort()
            return
        answers, broker = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        self._pairs.append((client, broker))
        for source, target in ((reader, broker), (answers, client)):
            pipe = asyncio.ensure_future(self._pass_on(source, target))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(CHUNK):
                if self.breaks_on is not None and self.breaks_on in data:
                    if self.breaks_once:
                        self.breaks_on = None
                    self.break_all()
                await self._flows.wait()
                target.write(data)
                await target.drain()
        except OSError:
            return  # broken, as ordered
