"""A zygote that says at each fork what no supervisor understands."""

import os
import signal
import socket
import stat


def babble() -> None:
    for fd in map(int, os.listdir("/proc/self/fd")):
        if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as own:
                # Of all its sockets that to the supervisor alone has a name and can be written to.
                if own.getsockname() and not own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    own.send(b"bla\n")


def main() -> None:
    signal.pause()


os.register_at_fork(after_in_parent=babble)
