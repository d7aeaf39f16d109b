"""The two flavours of the client: the same calls, sent and waited for in two ways."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Concatenate, ParamSpec, Self, TypeVar

import anyio
import httpx
from httpx_sse import EventSource, SSEError

from supervisor.client import address, calls, problems, resumption
from supervisor.client.calls import Call, Feed, Page

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a feed that broke is tried again by default: longer than the supervisor takes to restart."""

_LOOK = httpx.Timeout(30, connect=5)
_COMMAND = httpx.Timeout(30, connect=5, read=None)
"""A command is answered when it is done, and the supervisor's own deadlines see to it."""
_FEED = httpx.Timeout(30, connect=5, read=60)
"""The supervisor says something every 15 s; after a minute of silence nobody is there."""


def _called(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(make)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.send(make(*args, **kwargs))

    return method


def _paged(make: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    @functools.wraps(make)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return client.pages(make(*args, **kwargs))

    return method


def _fed(make: Callable[P, Feed[T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    @functools.wraps(make)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return client.read(make(*args, **kwargs))

    return method


def _awaited(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    @functools.wraps(make)
    def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return client.send(make(*args, **kwargs))

    return method


def _awaited_pages(make: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    @functools.wraps(make)
    def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return client.pages(make(*args, **kwargs))

    return method


def _awaited_feed(make: Callable[P, Feed[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]:
    @functools.wraps(make)
    def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        return client.read(make(*args, **kwargs))

    return method


def _request(http: httpx.Client | httpx.AsyncClient, call: Call[T]) -> httpx.Request:
    return http.build_request(
        call.method,
        call.path,
        params=call.params,
        json=call.body,
        headers=call.headers,
        timeout=_LOOK if call.method == "GET" else _COMMAND,
    )


def _understood(call: Call[T], answer: httpx.Response, url: str) -> T:
    """What the answer says. Raises Problem, or Unreachable where it is not a supervisor that has answered."""
    if answer.is_error:
        raise problems.of(answer)
    try:
        return call.read(answer)
    except ValueError as error:
        raise problems.Unreachable(url, _other(error)) from None


def _other(error: Exception) -> str:
    return f"something else answers there: {error}"


def _next(call: Call[Page[T]], page: Page[T]) -> Call[Page[T]] | None:
    if page.cursor is None:
        return None
    return dataclasses.replace(call, params={**call.params, "cursor": page.cursor})


class Client:
    """Calls a supervisor, and waits for its answers. To be closed, or used with `with`; threads may share it.

    `base_url` is http://…, https://… or unix:/path; without it BOT_SUPERVISOR_URL, or http://127.0.0.1:8000. `token`
    comes, if not given, from BOT_SUPERVISOR_TOKEN or the file that BOT_SUPERVISOR_TOKEN_FILE names. Feeds that break
    are tried again for `patience_s`. Raises ValueError for a URL or a token that cannot be used, as do all calls
    Problem and Unreachable.
    """

    def __init__(
        self, base_url: str | None = None, *, token: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.url = address.url(base_url)
        self._patience_s = patience_s
        options, socket = address.options(self.url)
        transport = httpx.HTTPTransport(uds=socket) if socket else None
        self._http = httpx.Client(transport=transport, headers=address.headers(token), **options)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, call: Call[T]) -> T:
        """Make a call."""
        try:
            return _understood(call, self._http.send(_request(self._http, call)), self.url)
        except httpx.RequestError as error:
            raise problems.Unreachable(self.url, error) from None

    def pages(self, call: Call[Page[T]]) -> Iterator[T]:
        """The items of all pages."""
        following: Call[Page[T]] | None = call
        while following is not None:
            page = self.send(following)
            yield from page.items
            following = _next(call, page)

    def read(self, feed: Feed[T]) -> Iterator[T]:
        """What a feed says until its end, if it has one; it is taken up again where it breaks."""
        place = resumption.Resumption(feed, self._patience_s)
        while True:
            lost: problems.Error = problems.Unreachable(self.url, "it has ended the feed")
            try:
                with self._http.stream(
                    "GET", feed.path, params=feed.params, headers=place.headers, timeout=_FEED
                ) as response:
                    if response.is_error:
                        response.read()
                        raise problems.of(response)
                    place.opened()
                    for message in EventSource(response).iter_sse():
                        value = place.take(message)
                        if value is not None:
                            yield value
                            if feed.is_last(value):
                                return
            except (SSEError, ValueError) as error:
                raise problems.Unreachable(self.url, _other(error)) from None
            except httpx.RequestError as error:
                lost = problems.Unreachable(self.url, error)
            except problems.Problem as problem:
                lost = problem
            time.sleep(place.delay_s(lost))

    bots = _paged(calls.bots)
    bot = _called(calls.bot)
    create = _called(calls.create)
    create_many = _called(calls.create_many)
    start = _called(calls.start)
    stop = _called(calls.stop)
    restart = _called(calls.restart)
    signal = _called(calls.signal)
    delete = _called(calls.delete)
    start_many = _called(calls.start_many)
    stop_many = _called(calls.stop_many)
    restart_many = _called(calls.restart_many)
    runs = _paged(calls.runs)
    run = _called(calls.run)
    history = _paged(calls.history)
    crashes = _paged(calls.crashes)
    logs = _called(calls.logs)
    follow = _fed(calls.follow)
    events = _fed(calls.events)
    kinds = _called(calls.kinds)
    kind = _called(calls.kind)
    reload_kinds = _called(calls.reload_kinds)
    reload_kind = _called(calls.reload_kind)
    livez = _called(calls.livez)
    readyz = _called(calls.readyz)


class AsyncClient:
    """As Client, for asyncio and Trio: calls are awaited, lists and feeds read with `async for`."""

    def __init__(
        self, base_url: str | None = None, *, token: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.url = address.url(base_url)
        self._patience_s = patience_s
        options, socket = address.options(self.url)
        transport = httpx.AsyncHTTPTransport(uds=socket) if socket else None
        self._http = httpx.AsyncClient(transport=transport, headers=address.headers(token), **options)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def send(self, call: Call[T]) -> T:
        """Make a call."""
        try:
            return _understood(call, await self._http.send(_request(self._http, call)), self.url)
        except httpx.RequestError as error:
            raise problems.Unreachable(self.url, error) from None

    async def pages(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """The items of all pages."""
        following: Call[Page[T]] | None = call
        while following is not None:
            page = await self.send(following)
            for item in page.items:
                yield item
            following = _next(call, page)

    async def read(self, feed: Feed[T]) -> AsyncGenerator[T, None]:
        """What a feed says until its end, if it has one; it is taken up again where it breaks."""
        place = resumption.Resumption(feed, self._patience_s)
        while True:
            lost: problems.Error = problems.Unreachable(self.url, "it has ended the feed")
            try:
                async with self._http.stream(
                    "GET", feed.path, params=feed.params, headers=place.headers, timeout=_FEED
                ) as response:
                    if response.is_error:
                        await response.aread()
                        raise problems.of(response)
                    place.opened()
                    async for message in EventSource(response).aiter_sse():
                        value = place.take(message)
                        if value is not None:
                            yield value
                            if feed.is_last(value):
                                return
            except (SSEError, ValueError) as error:
                raise problems.Unreachable(self.url, _other(error)) from None
            except httpx.RequestError as error:
                lost = problems.Unreachable(self.url, error)
            except problems.Problem as problem:
                lost = problem
            await anyio.sleep(place.delay_s(lost))

    bots = _awaited_pages(calls.bots)
    bot = _awaited(calls.bot)
    create = _awaited(calls.create)
    create_many = _awaited(calls.create_many)
    start = _awaited(calls.start)
    stop = _awaited(calls.stop)
    restart = _awaited(calls.restart)
    signal = _awaited(calls.signal)
    delete = _awaited(calls.delete)
    start_many = _awaited(calls.start_many)
    stop_many = _awaited(calls.stop_many)
    restart_many = _awaited(calls.restart_many)
    runs = _awaited_pages(calls.runs)
    run = _awaited(calls.run)
    history = _awaited_pages(calls.history)
    crashes = _awaited_pages(calls.crashes)
    logs = _awaited(calls.logs)
    follow = _awaited_feed(calls.follow)
    events = _awaited_feed(calls.events)
    kinds = _awaited(calls.kinds)
    kind = _awaited(calls.kind)
    reload_kinds = _awaited(calls.reload_kinds)
    reload_kind = _awaited(calls.reload_kind)
    livez = _awaited(calls.livez)
    readyz = _awaited(calls.readyz)
