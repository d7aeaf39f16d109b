"""The client of the sd_notify protocol: what a bot tells its supervisor, in datagrams of `KEY=value` lines.

Source: sd_notify(3). A bot in any language can do the same through the address in NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket

_READY_S = 10.0


def notify(**values: str) -> bool:
    """Sends e.g. `READY="1"` or `STATUS="12 orders open"`; newlines in values become blanks.

    Returns whether it was handed over. It never raises, and it does not wait for a supervisor that is away. For one
    that is behind with its reading (the kernel keeps ten messages) READY alone waits, for at most `_READY_S`: it is
    said once, and a bot of whom it was lost would be taken for one that never became ready.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{key}={' '.join(value.splitlines())}" for key, value in values.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_READY_S if "READY" in values else 0.0)
            # Only a connected sender can wait for its receiver; any other would try again and again.
            sender.connect(address)
            sender.send(message.encode(errors="backslashreplace"))
    except OSError:
        return False
    return True
