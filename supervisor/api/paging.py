"""Pages of a list: an opaque cursor, and where the next page is."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated
from urllib.parse import urlencode

from pydantic import AfterValidator
from starlette.requests import Request

_LARGEST = 2**53


def cursor(after: int | None) -> str | None:
    """The cursor of the page that follows the item with this id; None on the last page."""
    return None if after is None else base64.urlsafe_b64encode(after.to_bytes(8)).decode().rstrip("=")


def after(cursor: str) -> int:
    """The id that a cursor stands for. Raises ValueError."""
    try:
        number = int.from_bytes(base64.b64decode(cursor + "=", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        number = -1
    if len(cursor) != 11 or not 0 <= number <= _LARGEST:
        raise ValueError("this cursor is not from an earlier page")
    return number


def _checked(cursor: str) -> str:
    after(cursor)
    return cursor


Cursor = Annotated[str, AfterValidator(_checked)]


def link(request: Request, next_after: int | None) -> dict[str, str]:
    """The Link header to the page that follows, for bare lists; none on the last page."""
    following = cursor(next_after)
    if following is None:
        return {}
    query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
    return {"Link": f'<{request.url.path}?{urlencode([*query, ("cursor", following)])}>; rel="next"'}
