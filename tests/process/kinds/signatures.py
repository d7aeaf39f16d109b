"""Callables with signatures of all sorts."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from botproc.contract import Context


async def everything(
    ctx: Context,
    symbol: str,
    *,
    amount: int = 3,
    rate: float = 0.5,
    dry: bool = True,
    peers: list = [],  # type: ignore[type-arg]  # noqa: B006
    extra: dict = {},  # type: ignore[type-arg]  # noqa: B006
    anything: int | None = None,
    marked: Annotated[int, {}] = 1,
    every: datetime.timedelta = datetime.timedelta(seconds=1),
    clock: Callable[[], float] = math.pi.__abs__,
    limit: float = math.inf,
    pair: tuple[int, int] = (1, 2),
    **rest: Any,
) -> None:
    """Takes all sorts
    of parameters.

    Much more could be said.
    """


def positional_only(a: int, /) -> None: ...


class Deep:
    class Down:
        @staticmethod
        def bot() -> None:
            print("deep down")


not_callable = 42
