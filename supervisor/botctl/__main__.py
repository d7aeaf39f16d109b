"""The door of botctl. Whatever goes wrong is one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import io
import os
import sys

from supervisor.botctl.exits import Exit


def main() -> int:
    """Run the command that the arguments name, and return the exit code."""
    _open_streams()
    try:
        # Here, for an import takes long enough to be interrupted.
        from supervisor.botctl import app

        code = app.run(sys.argv[1:] or ["--help"])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read it has gone. The interpreter would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.NOT_ALL_WELL
    except OSError as error:
        # The disk is full, for one.
        print(f"botctl: cannot write: {error.strerror}", file=sys.stderr)
        return Exit.NOT_ALL_WELL


def _open_streams() -> None:
    """Where one was closed nothing is written, and what its encoding has not is escaped."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    raise SystemExit(main())
