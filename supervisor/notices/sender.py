"""One request to one receiver: signed, bounded in time, and with no trace of its URL in what is told of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import hashlib
import hmac
import logging
import ssl
import time
import uuid
from dataclasses import dataclass

import httpx

from supervisor.core import errors
from supervisor.settings.webhooks import Webhook

TIMEOUT_S = 10.0
"""For one try, from looking up the name to the answer's status."""
MAX_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one try. `retry_after_s`: how long the receiver wants to be left alone."""

    told: str
    ok: bool = False
    final: bool = False
    """Trying again would not help."""
    retry_after_s: float = 0.0


class Sender:
    """Makes requests, with nothing that outlives one: neither connections nor cookies."""

    def __init__(self) -> None:
        """Raises SettingsRefused."""
        # They tell each URL, and a URL is a secret here.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            # It takes 20 ms to make.
            self._tls: ssl.SSLContext = httpx.create_ssl_context()
            self._client()
        except (OSError, ValueError, ImportError):
            raise errors.SettingsRefused(
                "webhooks: the proxy or the certificates that the environment names (HTTPS_PROXY, SSL_CERT_FILE) cannot"
                " be used"
            ) from None

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._tls, timeout=TIMEOUT_S, follow_redirects=False)

    async def send(self, webhook: Webhook, body: bytes, message_id: str) -> Answer:
        """One try. The body of the answer is not read: it may have no end."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "bot-supervisor",
            **signed(webhook, body, message_id),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client() as client,
                client.stream("POST", webhook.url.get_secret_value(), content=body, headers=headers) as response,
            ):
                return _judged(response)
        except TimeoutError:
            return Answer(told=f"no answer within {TIMEOUT_S:g} s")
        except httpx.ConnectError as error:
            return Answer(told=f"cannot connect: {error}")
        except httpx.InvalidURL:
            return Answer(told="its URL cannot be used", final=True)
        except httpx.HTTPError as error:
            # Not its text, in which the URL may stand.
            return Answer(told=f"no answer: {type(error).__name__}")


def signed(webhook: Webhook, body: bytes, message_id: str) -> dict[str, str]:
    """The headers of Standard Webhooks; the signature only where there is a secret."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(time.time()))}
    if webhook.key is not None:
        content = b".".join([message_id.encode(), headers["webhook-timestamp"].encode(), body])
        digest = hmac.digest(webhook.key, content, hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _judged(response: httpx.Response) -> Answer:
    code = response.status_code
    return Answer(
        # Not the phrase that was sent: it may say anything.
        told=f"{code} {httpx.codes.get_reason_phrase(code)}".rstrip(),
        ok=200 <= code < 300,
        final=300 <= code < 500 and code not in (408, 429),
        retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
    )


def _retry_after_s(value: str) -> float:
    """Seconds, or a date; 0 for what is neither."""
    if value.isascii() and value.isdecimal():
        return min(float(value[:9]), MAX_RETRY_AFTER_S)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return min(max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()), MAX_RETRY_AFTER_S)
    return 0.0


def new_id() -> str:
    """What a message is known by: the same in each try."""
    return f"msg_{uuid.uuid4().hex}"
