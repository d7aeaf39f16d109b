"""Suggestions for names that were probably misspelled."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_LOOKED_AT = 100
"""Maximum of characters of an unknown name that are compared: a caller chooses its length."""


def instead_of(unknown: str, known: Collection[str]) -> str:
    """Return a hint that names the nearest known name, or all of them where none is near."""
    if near := difflib.get_close_matches(unknown[:_LOOKED_AT].lower(), known, n=1):
        return f"did you mean {near[0]}?"
    return f"there are: {', '.join(sorted(known))}" if known else "there are none"
