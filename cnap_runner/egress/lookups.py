"""Looking up names of hosts with the host's own resolver, so that one agent's slow names are its own trouble."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

LOOKUPS = 128
"""At the same time, for all clients together. Each takes a thread while it lasts."""
LOOKUPS_PER_CLIENT = 8


class Lookups:
    """Asks the resolver in threads. Nobody can end a lookup before it ends itself, so it keeps its client's place until then."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(LOOKUPS_PER_CLIENT))
        """By client: as many as the network has addresses."""

    async def __call__(self, host: str, port: int, client: str) -> Sequence[str]:
        """Give the addresses of a name, once the client has a place. Raises `OSError` where it has none."""
        places = self._places[client]
        await places.acquire()
        loop = asyncio.get_running_loop()

        def give_back(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(places.release)

        asked = self._threads.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        asked.add_done_callback(give_back)
        found = await asyncio.wrap_future(asked)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
