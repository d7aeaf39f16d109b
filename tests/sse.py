"""Streams of server-sent events, as clients follow them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import httpx_sse


@contextlib.contextmanager
def following(
    client: httpx.Client, path: str, *, last_event_id: str | None = None, limit_s: float = 20, **params: Any
) -> Iterator[Iterator[httpx_sse.ServerSentEvent]]:
    """The messages of a stream. None for longer than the limit: httpx.ReadTimeout."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with httpx_sse.connect_sse(client, "GET", path, headers=headers, params=params, timeout=limit_s) as source:
        assert source.response.status_code == 200, source.response.read()
        yield source.iter_sse()
