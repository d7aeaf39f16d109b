"""A scraper: a plain function, as most are. It needs no asyncio to stop in good order."""

from __future__ import annotations

import hashlib
import urllib.request

from botproc.contract import SyncContext


def main(ctx: SyncContext, *, url: str, every_s: float = 60.0) -> None:
    """Fetches a page again and again, and says when it has changed."""
    before = ""
    while True:
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read()
        now = hashlib.sha256(page).hexdigest()
        if now != before:
            print(f"{url} has changed: {len(page)} bytes", flush=True)
        before = now
        # Ends at once when the bot is asked to stop, and says so.
        if not ctx.sleep(every_s):
            return
