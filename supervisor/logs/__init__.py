"""The bots' logs: where they are, how they are shown, how they are bounded.

A bot writes to a file of its own, one for ever, across its runs: `<log_dir>/<bot_id>.log`. The file is never
renamed and never truncated, so an offset in it is an address that stays. It is bounded by giving its head back
to the file system: what was there reads as a hole, and everything behind it keeps its offset. Only where the file
system cannot make holes is a file truncated instead, and its offsets begin again at 0.
"""

from supervisor.logs.bot_logs import BotLogs, LastWords, Output
from supervisor.logs.bounded import log_path, size
from supervisor.logs.console import Console, ConsoleHandler
from supervisor.logs.follower import Follower
from supervisor.logs.reader import Line, Reader, Skipped
from supervisor.logs.tails import lines_of, tail
from supervisor.logs.text import safe

__all__ = [
    "BotLogs",
    "Console",
    "ConsoleHandler",
    "Follower",
    "LastWords",
    "Line",
    "Output",
    "Reader",
    "Skipped",
    "lines_of",
    "log_path",
    "safe",
    "size",
    "tail",
]
