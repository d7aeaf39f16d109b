"""Looking up host names without ever waiting for it.

asyncio does it in the loop's few threads, which it joins at the end: a resolver that does not answer would hold up
those who read a log meanwhile, and then the end of the program, for half a minute.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from typing import Any

from supervisor import handover


class Loop(asyncio.SelectorEventLoop):
    """The usual event loop, but that each name is looked up in a thread that nobody waits for, once at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[Any, asyncio.Future[Any]] = {}

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        asked = (host, port, family, type, proto, flags)
        if asked not in self._lookups:
            self._lookups[asked] = self._look_up(asked)
        return await asyncio.shield(self._lookups[asked])

    def _look_up(self, asked: Any) -> asyncio.Future[Any]:
        found: asyncio.Future[Any] = self.create_future()

        def tell(result: Any) -> None:
            del self._lookups[asked]
            if isinstance(result, OSError):
                found.set_exception(result)
                found.exception()  # Those who asked may be gone.
            else:
                found.set_result(result)

        def look_up() -> None:
            # It may outlive the loop, and would take a signal that nobody hears of then.
            handover.hold_signals()
            result: Any
            try:
                result = socket.getaddrinfo(*asked)
            except OSError as error:
                result = error
            except UnicodeError:
                result = socket.gaierror(socket.EAI_NONAME, "this can be no host name")
            try:
                self.call_soon_threadsafe(tell, result)
            except RuntimeError:
                return  # The loop is closed.

        try:
            threading.Thread(target=look_up, name="names", daemon=True).start()
        except RuntimeError:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        return found
